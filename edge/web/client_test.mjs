// Tests of the page's client, by `node --test edge/web/`: a fake server, a fake clock, the golden frames.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { Client, uuidv7, verdict } from './static/client.js';

const golden = (name) => JSON.parse(readFileSync(new URL(`../../contracts/testdata/frames/${name}.json`, import.meta.url), 'utf8'));

const T0 = 1_790_000_000_000; // the server's time when the tests begin
const SKEW = 5_000; // the client's clock is behind by so much
const GUEST = golden('reply.connect.guest').ok;
const ROOM = 'lobby';

/** A clock that moves by tick() alone; timers fire in their order. */
class Clock {
  time = T0 - SKEW;
  timers = [];
  now = () => this.time;
  after = (ms, fn) => {
    const timer = { at: this.time + ms, fn };
    this.timers.push(timer);
    return timer;
  };
  cancel = (timer) => {
    this.timers = this.timers.filter((other) => other !== timer);
  };
  tick(ms) {
    const end = this.time + ms;
    for (;;) {
      const next = this.timers.filter((timer) => timer.at <= end).sort((a, b) => a.at - b.at)[0];
      if (!next) break;
      this.cancel(next);
      this.time = Math.max(this.time, next.at);
      next.fn();
    }
    this.time = end;
  }
}

/** One session: a client, what it was told, and the server's end of its connections. */
class World {
  clock = new Clock();
  sockets = [];
  events = [];
  saved = [];
  token = null;
  draw = 1; // what random() returns, but for rounding

  constructor({ token = null, saved = [], ...cfg } = {}) {
    const world = this;
    this.token = token;
    this.saved = saved;
    this.client = new Client({
      url: 'ws://test/v1/ws',
      name: 'Bob',
      token: { get: () => this.token, set: (value) => (this.token = value) },
      outbox: { load: () => structuredClone(this.saved), save: (items) => (this.saved = structuredClone(items)) },
      clock: this.clock,
      random: () => this.draw,
      ...cfg,
      WebSocket: class {
        asked = [];
        closedWith = null;
        constructor(url, protocols) {
          Object.assign(this, { url, protocols });
          world.sockets.push(this);
        }
        send(data) {
          this.asked.push(JSON.parse(data));
        }
        close(code = 1005) {
          this.closedWith ??= code;
        }
      },
    });
    for (const type of ['state', 'entries', 'pending', 'sent', 'failed', 'lost', 'event']) {
      this.client.on(type, (event) => this.events.push({ type, ...event }));
    }
  }

  get socket() {
    return this.sockets.at(-1);
  }

  /** What was asked on the newest connection and not looked at yet. */
  asked(op) {
    const i = this.socket.asked.findIndex((request) => !op || request.op === op);
    return i < 0 ? undefined : this.socket.asked.splice(i, 1)[0];
  }

  say(frame, socket = this.socket) {
    socket.onmessage({ data: JSON.stringify(frame) });
  }

  answer(op, ok) {
    const request = this.asked(op);
    assert.ok(request, `nothing asked for ${op}`);
    this.say({ id: request.id, ok });
    return request;
  }

  refuse(op, error) {
    const request = this.asked(op);
    assert.ok(request, `nothing asked for ${op}`);
    this.say({ id: request.id, error });
    return request;
  }

  hangUp(code, socket = this.socket) {
    socket.onclose({ code, reason: '' });
  }

  /** Opens the newest connection and answers its connect. */
  connect(more = {}) {
    this.socket.onopen();
    return this.answer('connect', { ...GUEST, time: this.clock.now() + SKEW, ...more });
  }

  /** Connects and joins the lobby at a head. */
  static at(head, options) {
    const world = new World(options);
    world.client.start();
    world.client.join(ROOM);
    world.connect();
    world.answer('join', joined(head, head ? [entry(head)] : []));
    world.events = [];
    return world;
  }

  /** The seqs that were given to the page. */
  seqs() {
    return this.events.filter((e) => e.type === 'entries').flatMap((e) => e.entries.map((x) => x.seq));
  }

  types(type) {
    return this.events.filter((e) => e.type === type);
  }
}

const entry = (seq, more = {}) => ({ ...golden('event.message'), seq, epoch: 1, time: T0 + seq, key: uuidv7(T0 + seq), ...more });
const joined = (head, entries = [], more = {}) => ({ ...golden('reply.join.complete').ok, head, entries, ...more });
const ok = (request) => ({ key: request.key, time: T0 });

test('connects as a guest, keeps the token, comes back with it', () => {
  const w = new World();
  w.client.start();
  assert.deepEqual(w.socket.protocols, ['parley.v1']);
  assert.deepEqual({ ...w.connect(), id: 3 }, golden('request.connect.guest'));
  assert.equal(w.client.state, 'open');
  assert.equal(w.token, GUEST.token);
  assert.deepEqual(w.client.user, GUEST.user);
  w.hangUp(1006);
  w.clock.tick(500);
  assert.deepEqual({ ...w.connect(), id: 3 }, golden('request.connect'));
});

test('takes golden frames as they are', () => {
  const w = new World();
  w.client.start();
  w.client.join(ROOM);
  w.connect();
  assert.deepEqual({ ...w.answer('join', golden('reply.join.complete').ok), id: 3 }, golden('request.join'));
  w.say(golden('event.presence'));
  w.say(golden('event.typing'));
  w.say(golden('event.error'));
  assert.deepEqual(w.types('event').map((e) => e.event), ['presence', 'typing', 'error']);
  assert.deepEqual(w.seqs(), [56, 57, 58]);
  const [first] = w.types('entries');
  assert.deepEqual([first.fresh, first.first, first.online], [true, 1, 2]);
  w.say(golden('event.gap'));
  assert.deepEqual(w.asked('join').since, { epoch: 1, seq: 58 });
});

test('takes what follows, drops what it has, keeps aside what is too early and joins again', () => {
  const w = World.at(10);
  w.say(entry(11));
  w.say(entry(11));
  w.say(entry(9));
  assert.deepEqual(w.seqs(), [11]);
  assert.equal(w.asked('join'), undefined);
  w.say(entry(14));
  w.say(entry(15));
  w.say(entry(18));
  assert.deepEqual(w.seqs(), [11]);
  const again = w.answer('join', joined(15, [entry(12), entry(13), entry(14), entry(15)]));
  assert.deepEqual(again.since, { epoch: 1, seq: 11 });
  assert.deepEqual(w.seqs(), [11, 12, 13, 14, 15]);
  // 18 is still aside and 16 is not there: one more join, whose hole inside is final.
  assert.deepEqual(w.answer('join', joined(17, [entry(16)])).since, { epoch: 1, seq: 15 });
  assert.deepEqual(w.seqs(), [11, 12, 13, 14, 15, 16, 18]);
  w.say(entry(19));
  assert.deepEqual(w.seqs().at(-1), 19);
  assert.equal(w.asked('join'), undefined);
});

test('an entry that fills the hole live needs no second look', () => {
  const w = World.at(10);
  w.say(entry(12));
  w.say(entry(11));
  assert.deepEqual(w.seqs(), [11, 12]);
  w.answer('join', joined(12, [entry(11), entry(12)]));
  assert.deepEqual(w.seqs(), [11, 12]);
});

test('an entry of unknown kind moves the position', () => {
  const w = World.at(10);
  w.say({ ...entry(11), event: 'sung' });
  w.say(entry(12));
  assert.deepEqual(w.seqs(), [11, 12]);
  assert.equal(w.asked('join'), undefined);
});

test('resumes after a disconnect, in as many pieces as it takes', () => {
  const w = World.at(10);
  w.hangUp(1001);
  w.clock.tick(500);
  w.connect();
  assert.deepEqual(w.answer('join', joined(14, [entry(11), entry(12)], { state: 'more' })).since, { epoch: 1, seq: 10 });
  assert.deepEqual(w.answer('join', joined(14, [entry(14)])).since, { epoch: 1, seq: 12 });
  w.say(entry(15));
  assert.deepEqual(w.seqs(), [11, 12, 14, 15]);
  assert.ok(w.types('entries').every((e) => !e.fresh));
});

test('more without an entry is asked again with a pause', () => {
  const w = World.at(10);
  w.say(golden('event.gap'));
  w.answer('join', joined(14, [], { state: 'more' }));
  assert.equal(w.asked('join'), undefined);
  w.clock.tick(500);
  assert.deepEqual(w.asked('join').since, { epoch: 1, seq: 10 });
});

test('a reset in a reply and a reset event both begin anew', () => {
  const w = World.at(10);
  w.say(entry(12));
  w.answer('join', joined(3, [entry(3, { epoch: 2 })], { state: 'reset', epoch: 2 }));
  assert.deepEqual(w.seqs(), [3]);
  assert.equal(w.types('entries')[0].fresh, true);
  w.say(entry(4, { epoch: 2 }));
  assert.deepEqual(w.seqs(), [3, 4]);

  w.say({ ...golden('event.reset'), epoch: 3 });
  w.say(entry(5, { epoch: 2 }));
  assert.deepEqual(w.seqs(), [3, 4]);
  assert.equal(w.answer('join', joined(7, [entry(7, { epoch: 3 })], { epoch: 3 })).since, undefined);
  w.say(entry(8, { epoch: 3 }));
  assert.deepEqual(w.seqs(), [3, 4, 7, 8]);
  assert.equal(w.types('entries').filter((e) => e.fresh).length, 2);
});

test('an entry of another epoch is not taken but asked about', () => {
  const w = World.at(10);
  w.say(entry(11, { epoch: 2 }));
  assert.deepEqual(w.seqs(), []);
  assert.deepEqual(w.asked('join').since, { epoch: 1, seq: 10 });
});

test('a join that may be repeated is, one that may not ends the room', () => {
  const w = World.at(10);
  w.say(golden('event.gap'));
  w.refuse('join', { code: 'unavailable', message: '', retry: true, retry_after_ms: 700 });
  w.say(entry(11)); // whoever listened goes on listening
  assert.deepEqual(w.seqs(), [11]);
  w.clock.tick(699);
  assert.equal(w.asked('join'), undefined);
  w.clock.tick(1);
  w.refuse('join', { code: 'not_found', message: 'no' });
  assert.equal(w.types('lost')[0].reason, 'not_found');
  w.say(golden('event.gap'));
  assert.equal(w.asked('join'), undefined);
});

test('left ends the room', () => {
  const w = World.at(10);
  w.say({ event: 'left', room: ROOM, reason: 'kicked' });
  w.say(entry(11));
  assert.deepEqual(w.seqs(), []);
  assert.deepEqual(w.types('lost').map((e) => e.reason), ['kicked']);
});

test('a key is made at the first attempt, on the time of the server', () => {
  const w = new World();
  w.client.join(ROOM);
  const item = w.client.send(ROOM, 'hi');
  assert.equal(item.key, undefined);
  w.clock.tick(3_600_000);
  w.client.start();
  w.connect();
  const request = w.asked('send');
  assert.match(request.key, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.equal(parseInt(request.key.replaceAll('-', '').slice(0, 12), 16), w.clock.now() + SKEW);
  assert.equal(w.saved[0].key, request.key); // before anything could be lost
});

test('sends one at a time per room, in order, and other rooms beside', () => {
  const w = World.at(0);
  for (const text of ['a', 'b', 'c']) w.client.send(ROOM, text);
  w.client.send('other', 'x');
  const first = w.asked('send');
  assert.equal(first.text, 'a');
  assert.equal(w.asked('send').room, 'other');
  assert.equal(w.asked('send'), undefined);
  w.say({ id: first.id, ok: ok(first) });
  assert.equal(w.answer('send', { time: T0 }).text, 'b');
  assert.equal(w.answer('send', { time: T0 }).text, 'c');
  assert.deepEqual(w.types('sent').map((e) => e.item.text), ['a', 'b', 'c']);
  assert.deepEqual(w.client.pending(ROOM), []);
});

test('a retryable error repeats the same key, and nothing overtakes it', () => {
  const w = World.at(0);
  w.client.send(ROOM, 'a');
  w.client.send(ROOM, 'b');
  const { key } = w.refuse('send', golden('reply.error.retry').error);
  w.clock.tick(499);
  assert.equal(w.asked('send'), undefined);
  w.clock.tick(1);
  const again = w.answer('send', { time: T0 });
  assert.deepEqual([again.key, again.text], [key, 'a']);
  assert.equal(w.asked('send').text, 'b');
});

test('the key comes again even when its entry was seen meanwhile, as the server holds the room back until then', () => {
  const w = World.at(0);
  w.client.send(ROOM, 'a');
  w.client.send(ROOM, 'b');
  const { key } = w.refuse('send', { code: 'unavailable', message: '', retry: true, retry_after_ms: 100 });
  w.say(entry(1, { from: GUEST.user, key }));
  assert.deepEqual(w.types('sent').map((e) => e.entry.seq), [1]);
  w.clock.tick(100);
  assert.equal(w.answer('send', { time: T0 }).key, key);
  assert.equal(w.asked('send').text, 'b');
  assert.equal(w.types('sent').length, 1);
});

test('no answer and a disconnect repeat the same key in order', () => {
  const w = World.at(0);
  w.client.send(ROOM, 'a');
  w.client.send(ROOM, 'b');
  const { key } = w.asked('send');
  w.hangUp(1006);
  w.clock.tick(500);
  w.connect();
  const again = w.asked('send');
  assert.deepEqual([again.key, again.text], [key, 'a']);
  w.clock.tick(16_000); // silence; its ping is not this test's matter
  assert.equal(w.asked('send').key, key);
});

test('an entry of one\'s own proves acceptance, that of somebody with the same key does not', () => {
  const w = World.at(0);
  w.client.send(ROOM, 'a');
  const request = w.asked('send');
  w.say(entry(1, { key: request.key, from: { id: 'u1', name: 'Ada' } }));
  assert.equal(w.types('sent').length, 0);
  w.say(entry(2, { key: request.key, from: GUEST.user }));
  assert.equal(w.types('sent').length, 1);
  w.say({ id: request.id, ok: ok(request) });
  assert.equal(w.types('sent').length, 1);
});

test('a final error fails the message, lets the next pass, and trying again takes a new key', () => {
  const w = World.at(0);
  const item = w.client.send(ROOM, 'a');
  w.client.send(ROOM, 'b');
  const { key } = w.refuse('send', { code: 'stale_key', message: 'too old' });
  assert.deepEqual(item.error, { code: 'stale_key', message: 'too old' });
  assert.equal(w.answer('send', { time: T0 }).text, 'b');
  w.client.retry(item);
  const again = w.answer('send', { time: T0 });
  assert.equal(again.text, 'a');
  assert.notEqual(again.key, key);
  assert.deepEqual(w.saved, []);
});

test('what was not answered survives a reload with its key', () => {
  const w = World.at(0);
  w.client.send(ROOM, 'a');
  w.client.send(ROOM, 'b');
  const { key } = w.asked('send');
  const after = new World({ token: w.token, saved: w.saved });
  after.client.start();
  after.connect();
  const again = after.answer('send', { time: T0 });
  assert.deepEqual([again.key, again.text], [key, 'a']);
  assert.equal(after.asked('send').text, 'b');
});

test('what was tried under another name is not sent again by itself', () => {
  const w = World.at(0);
  w.client.send(ROOM, 'a');
  w.client.send(ROOM, 'b');
  w.hangUp(1006);
  w.clock.tick(500);
  w.connect({ user: { id: 'g-new', name: 'Bob', guest: true } });
  assert.deepEqual(w.types('failed').map((e) => e.item.text), ['a']);
  assert.equal(w.asked('send').text, 'b');
});

test('waits random(0, min(30 s, 0.5 s · 2ⁿ)), from the beginning after 60 s connected', () => {
  const w = new World();
  w.client.start();
  for (const want of [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]) {
    w.hangUp(1006);
    const sockets = w.sockets.length;
    w.clock.tick(want - 1);
    assert.equal(w.sockets.length, sockets);
    w.clock.tick(1);
    assert.equal(w.sockets.length, sockets + 1);
  }
  w.connect({ ping: 3600 });
  w.clock.tick(59_999);
  w.hangUp(1006);
  assert.equal(w.types('state').at(-1).until, w.clock.now() + 30_000);
  w.client.wake();
  w.connect({ ping: 3600 });
  w.clock.tick(60_000);
  w.hangUp(1006);
  assert.equal(w.types('state').at(-1).until, w.clock.now() + 500);
});

test('close codes', () => {
  for (const code of [1000, 1001, 1005, 1006, 1011, 1012, 1013, 4408, 4429, 4440, 4450, 4460, 4499, 4000, 4999]) assert.equal(verdict(code), 'again', code);
  for (const code of [1002, 1003, 1007, 1008, 1009, 4400, 4403, 4409, 4500, 4549]) assert.equal(verdict(code), 'stop', code);
  assert.equal(verdict(4401), 'renew');

  const limited = World.at(0);
  limited.draw = 0;
  limited.hangUp(4429);
  limited.clock.tick(4_999);
  assert.equal(limited.sockets.length, 1);
  limited.clock.tick(1);
  assert.equal(limited.sockets.length, 2);

  const banned = World.at(0);
  banned.hangUp(4403);
  banned.clock.tick(3_600_000);
  assert.equal(banned.sockets.length, 1);
  assert.equal(banned.types('state').at(-1).why.code, 4403);
});

test('a guest\'s refused token is dropped once', () => {
  const w = new World({ token: 'old', guest: true });
  w.client.start();
  w.socket.onopen();
  assert.equal(w.refuse('connect', { code: 'unauthorized', message: '' }).token, 'old');
  w.hangUp(4401);
  w.socket.onopen();
  assert.equal(w.refuse('connect', { code: 'unauthorized', message: '' }).guest, 'Bob');
  w.hangUp(4401);
  w.clock.tick(3_600_000);
  assert.equal(w.sockets.length, 2);
  assert.equal(w.client.state, 'stopped');
});

test('a guest whose token has expired comes back as a new one', () => {
  const w = new World();
  w.client.start();
  w.connect();
  w.hangUp(4401);
  w.socket.onopen();
  assert.equal(w.asked('connect').guest, 'Bob');
});

const USER = golden('reply.connect').ok;
const asUser = { user: USER.user, token: undefined };
const settled = () => new Promise((resolve) => setImmediate(resolve)); // what was promised has come

test('a user whose token is refused or has expired does not come back as a guest', () => {
  const refused = new World({ token: 'jwt' });
  refused.client.start();
  refused.socket.onopen();
  refused.refuse('connect', { code: 'unauthorized', message: '' });
  refused.hangUp(4401);

  const expired = new World({ token: 'jwt' });
  expired.client.start();
  expired.connect(asUser);
  expired.hangUp(4401);

  const loggedOut = new World({ token: 'jwt' }); // in another tab
  loggedOut.client.start();
  loggedOut.connect(asUser);
  loggedOut.token = null;
  loggedOut.hangUp(1006);

  const wasGuest = new World();
  wasGuest.client.start();
  wasGuest.connect();
  wasGuest.client.stop();
  wasGuest.token = 'jwt';
  wasGuest.client.start();
  wasGuest.socket.onopen();
  wasGuest.hangUp(4401);

  for (const [name, w] of Object.entries({ refused, expired, loggedOut, wasGuest })) {
    w.clock.tick(3_600_000);
    assert.equal(w.sockets.length, name === 'wasGuest' ? 2 : 1, name);
    assert.equal(w.client.state, 'stopped', name);
    const { why } = w.types('state').at(-1);
    assert.equal(why.code, 4401, name);
    assert.ok(why.message, name);
    assert.equal(w.token, name === 'loggedOut' ? null : 'jwt', name);
  }

  loggedOut.client.name = 'Ada'; // who says so becomes a guest
  loggedOut.client.start();
  loggedOut.socket.onopen();
  assert.equal(loggedOut.asked('connect').guest, 'Ada');
});

test('renew gets another token, once between two connections, and not again and again at once', async () => {
  const tokens = ['second', 'third', 'fourth'];
  const w = new World({ token: 'first', renew: async () => tokens.shift() });
  w.client.start();
  w.socket.onopen();
  w.hangUp(4401);
  assert.equal(w.client.state, 'connecting');
  await settled();
  assert.equal(w.connect(asUser).token, 'second');
  assert.equal(w.token, 'second');
  w.hangUp(4401);
  await settled();
  assert.equal(w.sockets.length, 2);
  w.clock.tick(1_000);
  assert.equal(w.sockets.length, 3);
  w.socket.onopen();
  assert.equal(w.asked('connect').token, 'third');
  w.hangUp(4401);
  await settled();
  assert.equal(w.client.state, 'stopped');
  assert.deepEqual(tokens, ['fourth']);
});

test('without another token from renew it stops and says why', async () => {
  const renews = {
    none: () => null,
    same: () => 'jwt',
    error: () => Promise.reject(new Error('no network')),
    stop: (w) => w.client.stop(),
  };
  for (const [name, renew] of Object.entries(renews)) {
    const w = new World({ token: 'jwt', renew: () => renew(w) ?? null });
    w.client.start();
    w.connect(asUser);
    w.hangUp(4401);
    await settled();
    w.clock.tick(3_600_000);
    assert.equal(w.sockets.length, 1, name);
    assert.equal(w.client.state, 'stopped', name);
    const { why } = w.types('state').at(-1);
    assert.equal(why?.code, name === 'stop' ? undefined : 4401, name);
    if (name === 'error') assert.match(why.message, /no network/);
  }
});

test('a user without any token asks renew for one first', async () => {
  const w = new World({ name: undefined, renew: () => 'jwt' });
  w.client.start();
  assert.equal(w.sockets.length, 0);
  await settled();
  assert.equal(w.connect(asUser).token, 'jwt');
});

test('a token that another has put where it is kept is taken before any is asked for', () => {
  const w = new World({ token: 'old', renew: () => assert.fail('asked') });
  w.client.start();
  w.connect(asUser);
  w.token = 'new';
  w.hangUp(4401);
  assert.equal(w.connect(asUser).token, 'new');
});

test('a retryable error to connect leaves the connection open', () => {
  const w = new World();
  w.client.start();
  w.socket.onopen();
  w.refuse('connect', { code: 'unavailable', message: '', retry: true, retry_after_ms: 300 });
  w.clock.tick(300);
  w.answer('connect', GUEST);
  assert.equal(w.sockets.length, 1);
  assert.equal(w.client.state, 'open');
});

test('after connect.ping seconds of silence it asks, 10 s later it connects anew', () => {
  const w = World.at(10);
  w.clock.tick(24_999);
  assert.equal(w.asked('ping'), undefined);
  w.clock.tick(1);
  assert.deepEqual({ ...w.asked('ping'), id: 3 }, golden('request.ping'));
  w.clock.tick(5_000);
  w.say(entry(11)); // any frame counts
  w.clock.tick(24_999);
  assert.equal(w.asked('ping'), undefined);
  w.clock.tick(6_000);
  assert.ok(w.asked('ping'));
  w.clock.tick(10_500);
  assert.equal(w.sockets.length, 2);
  assert.equal(w.sockets[0].closedWith, 1005);
});

test('when the edge drains it awaits the answers, opens the next connection, then closes the old one', () => {
  const w = World.at(10);
  const old = w.socket;
  w.client.send(ROOM, 'a');
  const first = w.asked('send');
  w.say({ event: 'reconnect', after_ms: 2_000 });
  w.client.send(ROOM, 'b');
  w.client.join('other');
  w.say({ id: first.id, ok: ok(first) });
  assert.equal(w.asked(), undefined, 'nothing new is started');
  w.clock.tick(1_999);
  assert.equal(w.sockets.length, 1);
  w.clock.tick(1);
  assert.equal(w.sockets.length, 2);
  w.say(entry(11), old); // the old one still delivers
  assert.equal(old.closedWith, null);
  w.connect();
  assert.equal(old.closedWith, 1000);
  assert.deepEqual(w.asked('join').since, { epoch: 1, seq: 11 });
  assert.equal(w.asked('join').room, 'other');
  assert.equal(w.asked('send').text, 'b');
  assert.deepEqual(w.types('state').map((e) => e.state), ['open']);
});

test('a guest\'s token is renewed when half of its time is gone, and when told', () => {
  const w = new World();
  w.client.start();
  w.connect({ expires_in_ms: 86_400_000 });
  w.answer('refresh', { token: 'newer' });
  assert.equal(w.token, 'newer');
  w.say(golden('event.token'));
  w.answer('refresh', golden('reply.refresh.guest').ok);
  assert.equal(w.token, golden('reply.refresh.guest').ok.token);
});

test('a user\'s token is renewed when told, with another one', async () => {
  const w = new World({ token: 'first', renew: async () => 'second' });
  w.client.start();
  w.connect(asUser);
  w.say(golden('event.token'));
  await settled();
  assert.equal(w.answer('refresh', golden('reply.refresh').ok).token, 'second');
  assert.equal(w.token, 'second');
  assert.deepEqual(w.types('event'), []);
});

test('a user\'s token that cannot be renewed is told of, and nothing is asked without one', async () => {
  for (const cfg of [{}, { renew: () => null }, { renew: () => Promise.reject(new Error('no network')) }]) {
    const w = new World({ token: 'first', ...cfg });
    w.client.start();
    w.connect(asUser);
    w.say(golden('event.token'));
    await settled();
    assert.equal(w.asked('refresh'), undefined);
    assert.deepEqual(w.types('event').map((e) => e.event), ['token']);
    w.token = 'second';
    w.say(golden('event.token'));
    await settled();
    assert.equal(w.answer('refresh', golden('reply.refresh').ok).token, 'second');
    w.hangUp(4401); // it was of no use
    await settled();
    assert.equal(w.client.state, 'stopped');
  }
});

test('request gives the reply or its error', async () => {
  const w = World.at(0);
  const history = w.client.request('history', { room: ROOM, before: 59, limit: 50 });
  assert.deepEqual({ ...w.answer('history', golden('reply.history').ok), id: 3 }, golden('request.history'));
  assert.deepEqual(await history, golden('reply.history').ok);
  const refused = w.client.request('history', { room: ROOM });
  w.refuse('history', golden('reply.error').error);
  await assert.rejects(refused, { code: 'bad_request', field: 'limit', retry: false });
  const lost = w.client.request('presence', { room: ROOM });
  w.hangUp(1006);
  await assert.rejects(lost, { code: 'disconnected', retry: true });
});
