// A client of the Parley protocol, version 1, without dependencies.
//
// A Client keeps one connection alive: it connects again as the close codes tell it to, joins its rooms again from
// where it was, and sends what has no answer yet again, in order and under the same keys. What happens is told to the
// functions given to on():
//
//	state    {state, until?, why?}                    offline, connecting, open, waiting (for its next attempt, at
//	                                                  until), stopped (why: {code?, message})
//	entries  {room, entries, fresh, live, first?, online?}  in order, each once; fresh: what was shown before is void
//	pending  {item}                                   a message of one's own is new or has changed
//	sent     {item, time, entry?}                     it was accepted
//	failed   {item}                                   it was not; item.error says why
//	lost     {room, reason, error?}                   the room is no longer listened to
//	event    the event itself                         typing, presence, room_added, ...; token (the token is about to
//	                                                  expire) where there is no other
//
// An item is {room, text, made, key?, tried?, by?, error?}; its identity is the object.

import { Link, Refused } from './link.js';

export { Refused };

/** The form of room and user ids. */
export const ID = /^[A-Za-z0-9_-]{1,64}$/;

const MAX_ASIDE = 1000; // entries kept per room while a join fills what is before them
const STEADY = 60_000; // after so long a connection the backoff starts anew
const MAX_CONNECT_WAIT = 4_000; // longer than this the server would not wait for connect
const READY_WITHIN = 15_000;
const DRAIN_WITHIN = 5_000;
const MAX_TIMER = 2 ** 31 - 1;
const GUEST_TOKEN_LOW = 15 * 86_400_000; // half of what a guest's token lasts

/** The real clock; tests bring their own. */
export const clock = {
  now: () => Date.now(),
  after: (ms, fn) => setTimeout(fn, Math.min(ms, MAX_TIMER)),
  cancel: (timer) => clearTimeout(timer),
};

/** What a close code asks of the client: 'again', 'renew' (the token) or 'stop'. */
export function verdict(code) {
  if (code === 4401) return 'renew';
  if ([1002, 1003, 1007, 1008, 1009, 4400, 4403, 4409].includes(code)) return 'stop';
  return code >= 4500 && code <= 4549 ? 'stop' : 'again';
}

/** A UUIDv7 (RFC 9562) of a time in Unix milliseconds. */
export function uuidv7(time, random = crypto.getRandomValues(new Uint8Array(10))) {
  const b = new Uint8Array(16);
  for (let i = 5, t = time; i >= 0; i--, t = Math.floor(t / 256)) b[i] = t % 256;
  b.set(random.subarray(0, 10), 6);
  b[6] = 0x70 | (b[6] & 0x0f);
  b[8] = 0x80 | (b[8] & 0x3f);
  const hex = Array.from(b, (x) => x.toString(16).padStart(2, '0')).join('');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

export class Client {
  // What connect answered last: user, limits, server, durability.
  user = null;
  limits = {};
  server = null;
  durability = '';
  state = 'offline';

  #cfg;
  #clock;
  #handlers = new Map();
  #link = null; // serves requests
  #next = null; // is being opened; takes over once it is connected
  #timer = null; // until the next attempt
  #attempts = 0;
  #guestToken; // a guest's, null while there is none; undefined: one is a user
  #renewed = false; // a refused token was replaced or dropped and no connection was made since
  #renewing = null; // a new token is awaited, to connect with
  #asked = null; // the promise of a new token
  #since = 0; // when #link was connected
  #skew = 0; // the server's clock minus ours
  #rooms = new Map(); // id → {id, epoch, seq, aside, joining, tries}
  #outbox = []; // items without an answer, oldest first
  #slots = new Map(); // room id → {item, tries}: the send in flight or waiting for its retry

  /**
   * @param {object} cfg
   * @param {string} cfg.url of the WebSocket
   * @param {string} [cfg.name] see name
   * @param {{get: function(): ?string, set: function(?string)}} cfg.token where the token is kept. The client sets those of
   *   guests, which the server gives, and what renew gives
   * @param {function(): (?string|Promise<?string>)} [cfg.renew] gets another token for the same person, where one that is no
   *   guest's was refused, has expired or is about to. Without it, or where it gives none, the client stops with 4401
   * @param {boolean} [cfg.guest] the token that is kept is a guest's: where it is refused one comes back as a new guest
   * @param {{load: function(): object[], save: function(object[])}} cfg.outbox where unanswered messages are kept
   * @param {Function} [cfg.WebSocket]
   * @param {object} [cfg.clock]
   * @param {function(): number} [cfg.random] in [0, 1)
   */
  constructor(cfg) {
    this.#cfg = { WebSocket: globalThis.WebSocket, clock, random: Math.random, ...cfg };
    this.#clock = this.#cfg.clock;
    this.#outbox = this.#cfg.outbox.load();
    const token = this.#cfg.token.get() || null;
    if (cfg.guest || (cfg.name !== undefined && !token)) this.#guestToken = token;
  }

  /** Calls fn for every event of that type. */
  on(type, fn) {
    this.#handlers.set(type, [...(this.#handlers.get(type) ?? []), fn]);
    return this;
  }

  /** The display name of a guest who has no token yet. Who has given up a user's token becomes a guest by setting it. */
  set name(name) {
    this.#cfg.name = name;
    if (!this.#cfg.token.get()) this.#guestToken = null;
  }

  /** Connects and stays connected until stop or a final refusal. */
  start() {
    if (this.state !== 'offline' && this.state !== 'stopped') return;
    this.#renewed = false;
    this.#open();
  }

  /** Closes the connection. What is unanswered stays in the outbox. */
  stop(why) {
    this.#clock.cancel(this.#timer);
    this.#renewing = null;
    const links = [this.#next, this.#link];
    this.#next = this.#link = null;
    for (const link of links) link?.close();
    this.#slots.clear();
    this.#become('stopped', { why });
  }

  /** Tries now if it was waiting, as when the network has come back. */
  wake() {
    if (this.state === 'waiting') this.#open();
  }

  /** Listens to a room until leave. */
  join(id) {
    if (this.#rooms.has(id)) return;
    const room = { id, epoch: 0, seq: 0, aside: new Map(), joining: null, tries: 0 };
    this.#rooms.set(id, room);
    this.#listen(room);
  }

  /** Stops listening; the membership stays. */
  leave(id) {
    if (this.#rooms.delete(id)) this.#ready()?.tell('leave', { room: id });
  }

  /** Queues a message and returns its item. */
  send(room, text) {
    const item = { room, text, made: this.#clock.now() + this.#skew };
    this.#outbox.push(item);
    this.#save();
    this.#emit('pending', { item });
    this.#flush(room);
    return item;
  }

  /** Sends a failed item as a new message. */
  retry(item) {
    if (!item.error || !this.#remove(item)) return;
    delete item.error;
    delete item.key;
    delete item.tried;
    item.made = this.#clock.now() + this.#skew;
    this.#outbox.push(item);
    this.#save();
    this.#emit('pending', { item });
    this.#flush(item.room);
  }

  /** Forgets a failed item. */
  discard(item) {
    if (item.error && this.#remove(item)) this.#save();
  }

  /** The messages of a room that have no answer yet or failed, oldest first. */
  pending(room) {
    return this.#outbox.filter((item) => item.room === room);
  }

  /** How many messages wait for an answer, in all rooms. */
  get waiting() {
    return this.#outbox.filter((item) => !item.error).length;
  }

  /** Asks for anything that only reads. Rejects with Refused. */
  request(op, fields) {
    return new Promise((resolve, reject) => {
      const link = this.#ready();
      if (!link) return reject(new Refused({ code: 'unavailable', message: 'not connected', retry: true }));
      link.request(op, fields, (error, ok) => (error ? reject(error) : resolve(ok)));
    });
  }

  /** Tells that one is typing, or no longer. To be repeated every 3 s. */
  typing(room, on) {
    this.#ready()?.tell('typing', { room, on });
  }

  // Connections.

  #open() {
    this.#clock.cancel(this.#timer);
    if (this.#renewing) return; // it opens
    const token = this.#cfg.token.get() || null;
    if (!token && this.#guestToken === undefined) return this.#replace(null, 'there is no token any more');
    const link = new Link(new this.#cfg.WebSocket(this.#cfg.url, ['parley.v1']), this.#clock);
    this.#next = link;
    link.token = token;
    link.opened = () => this.#connect(link, 0);
    link.heard = (event) => this.#heard(link, event);
    link.closed = (code, reason) => this.#closed(link, code, reason);
    link.expire(READY_WITHIN);
    if (!this.#link) this.#become('connecting');
  }

  #connect(link, tries) {
    link.request('connect', link.token ? { token: link.token } : { guest: this.#cfg.name }, (error, ok) => {
      if (this.#next !== link || error?.code === 'disconnected') return;
      if (!error) return this.#connected(link, ok);
      if (error.code === 'unauthorized' || error.code === 'forbidden') return; // the close code follows
      if (!error.retry) return this.stop({ code: error.code, message: error.message });
      const wait = error.retryAfter || this.#backoff(tries);
      if (wait > MAX_CONNECT_WAIT) {
        link.close();
        this.#next = null;
        return this.#schedule(wait);
      }
      link.expire(READY_WITHIN);
      this.#clock.after(wait, () => this.#next === link && this.#connect(link, tries + 1));
    });
  }

  #connected(link, ok) {
    const old = this.#link;
    this.#link = link;
    this.#next = null;
    old?.close();
    link.expire(0);
    link.watch(ok.ping * 1000);
    this.#renewed = false;
    this.#since = this.#clock.now();
    this.#skew = ok.time - this.#since;
    Object.assign(this, { user: ok.user, limits: ok.limits ?? {}, server: ok.server, durability: ok.durability });
    if (ok.token) this.#keep(link, ok.token);
    this.#guestToken = ok.user.guest ? link.token : undefined;
    if (ok.user.guest && ok.expires_in_ms < GUEST_TOKEN_LOW) this.#refresh(link);
    this.#become('open');

    for (const room of this.#rooms.values()) {
      room.joining = null;
      this.#listen(room);
    }
    this.#slots.clear();
    // Whoever sent these first is somebody else now: a retry would not be recognised as one.
    for (const item of this.#outbox) {
      if (item.tried && !item.error && item.by !== ok.user.id) {
        this.#fail(item, { code: 'unknown', message: 'it may have been sent under your former name' });
      }
    }
    for (const room of new Set(this.#outbox.map((item) => item.room))) this.#flush(room);
  }

  #closed(link, code, reason) {
    const current = this.#link === link || this.#next === link;
    if (!current) return;
    if (this.#next === link) {
      this.#next = null;
    } else {
      this.#link = null;
      if (this.#clock.now() - this.#since >= STEADY) this.#attempts = 0;
    }
    if (this.#next || this.#renewing) return this.#become('connecting');
    switch (verdict(code)) {
      case 'stop':
        return this.stop({ code, message: reason });
      case 'renew':
        return this.#refused(link.token, reason || 'the token was refused or has expired');
    }
    this.#schedule(code === 4429 ? 5_000 : 0);
  }

  // A guest comes back as another one; a user never becomes somebody else unasked.
  #refused(token, message) {
    if (this.#renewed) return this.stop({ code: 4401, message });
    const kept = this.#cfg.token.get();
    if (kept && kept !== token) return this.#again(); // somebody has put another one there
    this.#renewed = true;
    if (token !== this.#guestToken) return this.#replace(token, message);
    if (!token) return this.stop({ code: 4401, message });
    this.#cfg.token.set(null);
    this.#again();
  }

  // Connects with another token than the refused one, or stops.
  async #replace(refused, message) {
    if (!this.#cfg.renew) return this.stop({ code: 4401, message });
    const turn = (this.#renewing = {});
    if (!this.#link) this.#become('connecting');
    let token = null;
    try {
      token = await this.#ask();
    } catch (error) {
      message += `; no other could be had: ${error?.message ?? error}`;
    }
    if (this.#renewing !== turn) return; // stopped meanwhile
    this.#renewing = null;
    if (!token || token === refused) return this.stop({ code: 4401, message });
    this.#cfg.token.set(token);
    this.#again();
  }

  // At once, but not again and again: a server may refuse what it has just accepted.
  #again() {
    if (this.#attempts > 0) return this.#schedule(0);
    this.#attempts = 1;
    this.#open();
  }

  // Asks renew, once at a time.
  #ask() {
    this.#asked ??= (async () => this.#cfg.renew())().finally(() => (this.#asked = null));
    return this.#asked;
  }

  #schedule(least) {
    const wait = Math.max(least, this.#backoff(this.#attempts++));
    this.#clock.cancel(this.#timer);
    this.#timer = this.#clock.after(wait, () => this.#open());
    if (!this.#link) this.#become('waiting', { until: this.#clock.now() + wait });
  }

  #backoff(n) {
    return this.#cfg.random() * Math.min(30_000, 500 * 2 ** n);
  }

  // This edge drains: start nothing new, await the answers, wait, open the next connection; it closes this one.
  #drain(link, afterMS) {
    if (link !== this.#link || link.draining) return;
    link.draining = true;
    link.settled(DRAIN_WITHIN, () => {
      this.#clock.after(this.#cfg.random() * (afterMS ?? 0), () => {
        if (this.#link === link && !this.#next) this.#open();
      });
    });
  }

  // The token is about to expire. Where there is no other the page is told: it has until then to put one where it is kept.
  async #renew(link, event) {
    if (this.user.guest) return this.#refresh(link);
    let token = null;
    if (this.#cfg.renew) token = await this.#ask().catch(() => null); // it is asked again once the token has expired
    if (this.#link !== link) return;
    token ||= this.#cfg.token.get();
    if (!token || token === link.token) return this.#emit('event', event);
    this.#refresh(link, token);
  }

  // Prolongs the connection: with another token, or as a guest, whom the server gives one.
  #refresh(link, token) {
    link.request('refresh', { token }, (error, ok) => {
      if (!error && (token ?? ok.token)) this.#keep(link, token ?? ok.token);
    });
  }

  #keep(link, token) {
    link.token = token;
    if (this.#guestToken !== undefined) this.#guestToken = token;
    this.#cfg.token.set(token);
  }

  #ready() {
    return this.#link && !this.#link.draining ? this.#link : null;
  }

  #become(state, more = {}) {
    this.state = state;
    this.#emit('state', { state, ...more });
  }

  #emit(type, event) {
    for (const fn of this.#handlers.get(type) ?? []) fn(event);
  }

  // Rooms.

  #heard(link, event) {
    if (link !== this.#link) return;
    if (event.seq !== undefined && event.epoch !== undefined) return this.#take(event);
    const room = this.#rooms.get(event.room);
    switch (event.event) {
      case 'gap':
        if (room) this.#listen(room);
        return;
      case 'reset':
        if (!room) return;
        room.epoch = room.seq = 0;
        room.joining = null;
        room.aside.clear();
        return this.#listen(room);
      case 'left':
        if (this.#rooms.delete(event.room)) this.#emit('lost', { room: event.room, reason: event.reason });
        return;
      case 'reconnect':
        return this.#drain(link, event.after_ms);
      case 'token':
        return this.#renew(link, event);
    }
    this.#emit('event', event);
  }

  // One join per room and connection is in flight: its reply is as new as any that would follow it.
  #listen(room) {
    const link = this.#ready();
    if (!link || room.joining) return;
    const turn = (room.joining = { link });
    const fresh = room.epoch === 0;
    const since = fresh ? undefined : { epoch: room.epoch, seq: room.seq };
    link.request('join', { room: room.id, since }, (error, ok) => {
      if (room.joining !== turn || this.#rooms.get(room.id) !== room) return;
      room.joining = null;
      if (!error) {
        room.tries = 0;
        return this.#joined(room, ok, fresh);
      }
      if (error.code === 'disconnected') return;
      if (error.retry) return this.#listenLater(room, error.retryAfter || this.#backoff(room.tries++));
      this.#rooms.delete(room.id);
      this.#emit('lost', { room: room.id, reason: error.code, error });
    });
  }

  #listenLater(room, wait) {
    const turn = (room.joining = {});
    this.#clock.after(wait, () => {
      if (room.joining !== turn || this.#rooms.get(room.id) !== room) return;
      room.joining = null;
      this.#listen(room);
    });
  }

  #joined(room, ok, fresh) {
    fresh ||= ok.state === 'reset';
    if (fresh) {
      room.seq = 0;
      room.aside.clear();
    }
    const before = room.seq;
    const entries = ok.entries.filter((entry) => fresh || entry.seq > before);
    room.epoch = ok.epoch;
    room.seq = ok.state === 'more' ? (entries.at(-1)?.seq ?? before) : ok.head;
    for (const entry of entries) this.#settle(entry);
    this.#emit('entries', { room: room.id, entries, fresh, live: false, first: ok.first, online: ok.online });
    if (ok.state !== 'more') return this.#catchUp(room);
    if (room.seq > before) return this.#listen(room);
    this.#listenLater(room, this.#backoff(room.tries++));
  }

  #take(entry) {
    this.#settle(entry);
    const room = this.#rooms.get(entry.room);
    if (!room || room.epoch === 0) return;
    if (entry.epoch !== room.epoch) return this.#listen(room);
    if (entry.seq <= room.seq) return;
    if (entry.seq === room.seq + 1) {
      room.seq = entry.seq;
      this.#emit('entries', { room: room.id, entries: [entry], fresh: false, live: true });
    } else if (room.aside.size < MAX_ASIDE) {
      room.aside.set(entry.seq, entry);
    }
    this.#catchUp(room);
  }

  // Takes what was kept aside and now follows; what still does not makes the client join again.
  #catchUp(room) {
    const entries = [];
    for (const seq of [...room.aside.keys()].sort((a, b) => a - b)) {
      if (seq > room.seq + 1) break;
      if (seq === room.seq + 1) {
        entries.push(room.aside.get(seq));
        room.seq = seq;
      }
      room.aside.delete(seq);
    }
    if (entries.length) this.#emit('entries', { room: room.id, entries, fresh: false, live: true });
    if (room.aside.size) this.#listen(room);
  }

  // Sending.

  // One send per room is in flight, so the order holds. After a retryable error the server refuses everything to that
  // room until the same key comes again: the slot is kept for it, even if its entry has come meanwhile.
  #flush(id) {
    const link = this.#ready();
    if (!link || this.#slots.has(id)) return;
    const item = this.#outbox.find((item) => item.room === id && !item.error);
    if (!item) return;
    item.key ??= uuidv7(this.#clock.now() + this.#skew);
    item.tried = true;
    item.by = this.user.id;
    this.#save();
    const slot = { item, tries: 0 };
    this.#slots.set(id, slot);
    this.#attempt(slot);
  }

  #attempt(slot) {
    const link = this.#ready();
    const { item } = slot;
    const { room, key, text } = item;
    if (this.#slots.get(room) !== slot || !link) return;
    link.request('send', { room, key, text }, (error, ok) => {
      if (this.#slots.get(room) !== slot || error?.code === 'disconnected') return;
      if (error?.retry) {
        this.#clock.after(error.retryAfter || this.#backoff(slot.tries++), () => this.#attempt(slot));
        return;
      }
      this.#slots.delete(room);
      if (this.#outbox.includes(item)) {
        if (error) this.#fail(item, { code: error.code, message: error.message });
        else this.#accept(item, ok.time);
      }
      this.#flush(room);
    });
  }

  // An entry under one's own name and key proves acceptance as well as an ok does.
  #settle(entry) {
    if (!entry.key || entry.from?.id !== this.user?.id) return;
    const item = this.#outbox.find((item) => item.key === entry.key && item.room === entry.room);
    if (item) this.#accept(item, entry.time, entry);
  }

  #accept(item, time, entry) {
    this.#remove(item);
    this.#save();
    this.#emit('sent', { item, time, entry });
  }

  #fail(item, error) {
    item.error = error;
    this.#save();
    this.#emit('failed', { item });
  }

  #remove(item) {
    const i = this.#outbox.indexOf(item);
    if (i >= 0) this.#outbox.splice(i, 1);
    return i >= 0;
  }

  #save() {
    this.#cfg.outbox.save(this.#outbox);
  }
}
