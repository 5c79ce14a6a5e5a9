// The chat page: who one is, the rooms, and what is said in them.

import { Client, ID } from './client.js';
import { parsed, stored } from './store.js';
import { Timeline, avatar, element } from './view.js';

const MAX_JOINED = 20; // rooms listened to at once; the one left alone longest goes
const MAX_KEPT = 1500; // messages kept per room while one reads its end
const PAGE = 50;
const TYPING_AGAIN = 3_000;
const TYPING_FORGOTTEN = 6_000;
const ROOMS_AGAIN = 30_000;

const $ = (selector) => document.querySelector(selector);
const ui = {
  room: $('#room'), rooms: $('#rooms'), log: $('#log'), top: $('#edge'), newer: $('#newer'), text: $('#text'),
  typing: $('#typing'), left: $('#left'), node: $('#node'), banner: $('#banner'), online: $('#online'),
  people: $('#people'), me: $('#me'), welcome: $('#welcome'), name: $('#name'), nameError: $('#name-error'),
  menu: $('#menu'), newRoom: $('#new-room-id'), announcer: $('#announcer'),
};

const myName = stored(() => localStorage, 'parley.name');
const token = stored(() => localStorage, 'parley.token');
const guestToken = stored(() => localStorage, 'parley.guest'); // the same, as the server gave it
const seenStore = stored(() => localStorage, 'parley.seen');
const outbox = stored(() => sessionStorage, 'parley.outbox');

const seen = parsed(seenStore.get(), {}); // room → the last seq one has seen
const joined = new Map(); // room → what is known of it; the one looked at last is last
let listed = []; // as the server lists them
let current = null;
let stuck = true; // the end of the log is in view
let failedOnce = false;

const client = new Client({
  url: Object.assign(new URL('v1/ws', location.href), { protocol: location.protocol === 'https:' ? 'wss:' : 'ws:', hash: '' }).href,
  name: myName.get() ?? '',
  token: {
    get: () => token.reread(), // other tabs may have renewed it
    set(value) {
      token.set(value);
      guestToken.set(value);
    },
  },
  guest: guestToken.get() === token.get(),
  outbox: { load: () => parsed(outbox.get(), []), save: (items) => outbox.set(JSON.stringify(items)) },
});
const timeline = new Timeline($('#messages'), {
  retry: (item) => client.retry(item),
  discard(item) {
    client.discard(item);
    drawItems();
  },
});

// Rooms.

function roomOf(id) {
  let room = joined.get(id);
  if (!room) {
    room = { id, messages: [], accepted: [], oldest: 0, beginning: false, loaded: false, online: 0, typing: new Map(), unread: 0, last: 0, draft: '', lost: '' };
  }
  joined.delete(id);
  joined.set(id, room);
  return room;
}

function enter(id) {
  if (current?.id === id) return;
  if (current) current.draft = ui.text.value;
  current = roomOf(id);
  current.lost = '';
  client.join(id);
  for (const [old] of joined) {
    if (joined.size <= MAX_JOINED) break;
    joined.delete(old);
    client.leave(old);
  }
  stuck = true;
  ui.room.textContent = id;
  ui.text.value = current.draft;
  ui.text.placeholder = `Message #${id}`;
  if (ui.people.matches(':popover-open')) ui.people.hidePopover();
  openMenu(false);
  grow();
  draw();
  drawRooms();
  drawTyping();
  drawOnline();
  if (matchMedia('(hover: hover)').matches && !ui.welcome.open) ui.text.focus();
}

function roomFromHash() {
  let id = '';
  try {
    id = decodeURIComponent(location.hash.slice(1));
  } catch { /* no room has such a name */ }
  enter(ID.test(id) ? id : 'lobby');
}

async function listRooms() {
  const rooms = new Map(); // one's own first: of the others there may be more than can be shown
  try {
    for (const all of [false, true]) {
      for (let after, more = true; more && rooms.size < 300;) {
        const page = await client.request('rooms', { all, after });
        for (const room of page.rooms) if (!rooms.has(room.room)) rooms.set(room.room, { ...room, mine: !all });
        more = page.more && page.rooms.length > 0;
        after = page.rooms.at(-1)?.room;
      }
    }
  } catch {
    return; // the next time will do
  }
  listed = [...rooms.values()];
  drawRooms();
}

function drawRooms() {
  const known = new Map(listed.map((room) => [room.room, room]));
  for (const id of ['lobby', ...joined.keys()]) if (!known.has(id)) known.set(id, { room: id, name: id, head: 0 });
  const rank = (room) => (room.room === 'lobby' ? 2 : room.mine || joined.has(room.room) ? 1 : 0);
  const order = [...known.values()].sort((a, b) => rank(b) - rank(a) || a.room.localeCompare(b.room));
  const focused = document.activeElement?.closest?.('#rooms a')?.dataset.room;
  let elsewhere = 0;
  ui.rooms.replaceChildren(...order.map(({ room: id, name, head }) => {
    const open = joined.get(id);
    const unread = open?.loaded ? open.unread : id in seen ? Math.max(0, head - seen[id]) : 0;
    if (id !== current?.id) elsewhere += unread;
    const label = element('span', 'label', element('span', 'hash', '#'), element('bdi', '', name || id));
    const link = element('a', unread ? 'unread' : '', label);
    link.href = `#${id}`;
    link.dataset.room = id;
    if (id === current?.id) link.setAttribute('aria-current', 'page');
    if (unread) link.append(element('span', 'badge', unread > 99 ? '99+' : String(unread)), element('span', 'unseen', ' unread'));
    return element('li', '', link);
  }));
  if (focused) ui.rooms.querySelector(`a[data-room="${focused}"]`)?.focus();
  ui.menu.querySelector('.dot').hidden = elsewhere === 0;
  drawTitle();
}

function drawTitle() {
  let unread = 0;
  for (const room of joined.values()) unread += room.unread;
  document.title = `${unread ? `(${unread}) ` : ''}#${current.id} · Parley`;
}

// Messages.

client.on('entries', ({ room: id, entries, fresh, live, first, online }) => {
  const room = joined.get(id);
  if (!room) return;
  // Kinds that this page does not know have moved the position on; there is nothing to show.
  const messages = entries
    .filter((entry) => entry.event === 'message' && typeof entry.text === 'string')
    .map((entry) => ({ ...entry, own: entry.from.id === client.user.id }));
  const keys = new Set(messages.map((message) => message.key));
  room.accepted = fresh ? [] : room.accepted.filter((item) => !keys.has(item.key));
  for (const message of messages) room.typing.delete(message.from.id);
  if (fresh) {
    room.messages = messages;
    room.oldest = entries[0]?.seq ?? 0;
    room.beginning = !entries.length || room.oldest <= first;
    room.loaded = true;
    room.unread = id in seen ? messages.filter((message) => message.seq > seen[id] && !message.own).length : 0;
  } else {
    room.messages.push(...messages);
    room.unread += messages.filter((message) => !message.own).length;
  }
  room.last = Math.max(fresh ? 0 : room.last, entries.at(-1)?.seq ?? 0);
  if (online !== undefined) room.online = online;
  if (room === current) {
    if (fresh) draw();
    else append(messages);
    drawTyping();
    drawOnline();
    if (live) announce(messages);
  }
  drawRooms();
});

client.on('pending', ({ item }) => {
  if (item.room !== current?.id) return;
  stuck = true;
  drawItems();
});
client.on('failed', ({ item }) => item.room === current?.id && drawItems());
client.on('sent', ({ item, time, entry }) => {
  const room = joined.get(item.room);
  // Shown as sent until its entry takes its place, which follows if it is not what brought the news.
  if (room && !entry) room.accepted.push({ ...item, time });
  if (room === current && !entry) drawItems();
});

function items() {
  return [...current.accepted, ...client.pending(current.id)];
}

function me() {
  return client.user ?? { id: '', name: myName.get() ?? '' };
}

function draw() {
  timeline.draw(current.messages, items(), me());
  drawTop();
  follow();
}

function append(messages) {
  if (stuck && current.messages.length > MAX_KEPT) {
    current.messages.splice(0, current.messages.length - MAX_KEPT / 2);
    current.oldest = current.messages[0].seq;
    current.beginning = false;
    return draw();
  }
  timeline.add(messages, items(), me());
  drawTop();
  follow();
}

function drawItems() {
  timeline.items(items(), me());
  drawTop();
  follow();
}

function drawTop() {
  const { loaded, beginning, lost, id } = current;
  const empty = !current.messages.length && !items().length;
  ui.top.hidden = !lost && !loaded;
  ui.top.className = empty && beginning && !lost ? 'empty' : '';
  if (lost) ui.top.textContent = lost;
  else if (!beginning) ui.top.textContent = 'Loading earlier messages…';
  else if (!empty) ui.top.textContent = `This is the beginning of #${id}.`;
  else ui.top.textContent = `Nobody has said anything in #${id} yet. Say hello!`;
}

// Keeps the end in view if it was, and says what one has not seen if not.
function follow() {
  if (stuck) ui.log.scrollTop = ui.log.scrollHeight;
  look();
  if (ui.log.scrollHeight <= ui.log.clientHeight) loadOlder();
}

// Notes what is in view as seen.
function look() {
  if (current.unread && stuck && document.visibilityState === 'visible') current.unread = 0;
  if (current.loaded && current.unread === 0 && current.last > (seen[current.id] ?? -1)) {
    seen[current.id] = current.last;
    seenStore.set(JSON.stringify(seen));
  }
  ui.newer.hidden = stuck;
  ui.newer.textContent = current.unread ? `${current.unread} new message${current.unread > 1 ? 's' : ''} ↓` : 'To the newest ↓';
  ui.newer.classList.toggle('unread', current.unread > 0);
}

async function loadOlder() {
  const room = current;
  if (!room.loaded || room.beginning || room.loading) return;
  room.loading = true;
  try {
    const page = await client.request('history', { room: room.id, before: room.oldest, limit: PAGE });
    if (joined.get(room.id) !== room) return;
    const older = page.entries
      .filter((entry) => entry.event === 'message' && typeof entry.text === 'string' && entry.seq < room.oldest)
      .map((entry) => ({ ...entry, own: entry.from.id === client.user.id }));
    room.messages.unshift(...older);
    room.oldest = page.entries[0]?.seq ?? room.oldest;
    room.beginning = !page.more || !page.entries.length;
    if (room !== current) return;
    const below = ui.log.scrollHeight - ui.log.scrollTop;
    timeline.draw(room.messages, items(), me());
    drawTop();
    ui.log.scrollTop = ui.log.scrollHeight - below;
  } catch {
    return; // scrolling on, or coming back, asks again
  } finally {
    room.loading = false;
  }
  if (room === current && ui.log.scrollTop < 200) loadOlder();
}

function announce(messages) {
  for (const { own, from, text } of messages) {
    if (!own) ui.announcer.append(element('p', '', `${from.name}: ${text}`));
  }
  while (ui.announcer.childElementCount > 20) ui.announcer.firstChild.remove();
}

ui.log.addEventListener('scroll', () => {
  stuck = ui.log.scrollHeight - ui.log.scrollTop - ui.log.clientHeight < 40;
  const before = current.unread;
  look();
  if (before !== current.unread) drawRooms();
  if (ui.log.scrollTop < 200) loadOlder();
}, { passive: true });
new ResizeObserver(() => stuck && follow()).observe(ui.log);
ui.newer.addEventListener('click', () => {
  ui.log.scrollTop = ui.log.scrollHeight;
  ui.text.focus();
});

// Writing.

let toldTyping = 0;

// What the server would refuse is not worth the way: control characters and lone surrogates.
function cleaned(text) {
  return text.replace(/\r\n?/g, '\n').replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, '').replace(/\p{Surrogate}/gu, '\ufffd').trimEnd();
}

// How many characters are left of the limits, by whichever is nearer.
function charactersLeft() {
  const text = cleaned(ui.text.value);
  const { text_runes: runes = Infinity, text_bytes: bytes = Infinity } = client.limits;
  return Math.min(runes - [...text].length, bytes - new TextEncoder().encode(text).length);
}

function grow() {
  ui.text.style.height = 'auto';
  ui.text.style.height = `${ui.text.scrollHeight}px`;
  const left = ui.text.value.length > 200 ? charactersLeft() : Infinity;
  ui.left.textContent = left < 0 ? `${-left} too long` : left <= 200 ? `${left} left` : '';
  ui.left.classList.toggle('over', left < 0);
  $('#composer').classList.toggle('ready', ui.text.value.trim() !== '' && left >= 0);
}

function submit() {
  const text = cleaned(ui.text.value);
  if (!text.trim() || charactersLeft() < 0 || current.lost) return;
  ui.text.value = '';
  grow();
  toldTyping = 0;
  client.send(current.id, text);
}

$('#composer').addEventListener('submit', (event) => {
  event.preventDefault();
  submit();
  ui.text.focus();
});
ui.text.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});
ui.text.addEventListener('input', () => {
  grow();
  const now = Date.now();
  if (!ui.text.value.trim()) {
    if (toldTyping) client.typing(current.id, false);
    toldTyping = 0;
  } else if (now - toldTyping >= TYPING_AGAIN) {
    toldTyping = now;
    client.typing(current.id, true);
  }
});

// Who is here, who is typing.

client.on('event', (event) => {
  const room = joined.get(event.room);
  switch (event.event) {
    case 'typing':
      if (!room || event.user.id === client.user.id) return;
      clearTimeout(room.typing.get(event.user.id)?.timer);
      room.typing.delete(event.user.id);
      if (event.on) {
        const timer = setTimeout(() => {
          room.typing.delete(event.user.id);
          drawTyping();
        }, TYPING_FORGOTTEN);
        room.typing.set(event.user.id, { name: event.user.name, timer });
      }
      return drawTyping();
    case 'presence':
      if (!room) return;
      room.online = event.count;
      if (room === current) drawOnline();
      if (room === current && ui.people.matches(':popover-open')) listPeople();
      return;
    case 'room_added':
      listRooms();
  }
});

function drawTyping() {
  const names = [...current.typing.values()].map(({ name }) => element('bdi', '', name));
  const parts = [
    [],
    [names[0], ' is typing'],
    [names[0], ' and ', names[1], ' are typing'],
    ['Several people are typing'],
  ][Math.min(names.length, 3)];
  if (names.length) parts.push(element('span', 'dots', element('i'), element('i'), element('i')));
  ui.typing.replaceChildren(...parts);
}

function drawOnline() {
  ui.online.hidden = !current.loaded || client.state !== 'open';
  ui.online.querySelector('.count').textContent = `${current.online} online`;
}

async function listPeople() {
  const { id } = current;
  let answer;
  try {
    answer = await client.request('presence', { room: id });
  } catch {
    answer = { count: 0, users: [] };
  }
  if (current.id !== id) return;
  const rest = answer.count - answer.users.length;
  const people = answer.users.sort((a, b) => (b.id === client.user.id) - (a.id === client.user.id) || a.name.localeCompare(b.name));
  ui.people.querySelector('ul').replaceChildren(...people.map((person) => element('li', '',
    avatar(person), element('bdi', 'name', person.name), person.id === client.user.id ? element('span', 'you', 'you') : '')));
  ui.people.querySelector('.more').hidden = rest <= 0 && people.length > 0;
  ui.people.querySelector('.more').textContent = people.length ? `and ${rest} more` : 'This is not known right now.';
}
ui.people.addEventListener('toggle', (event) => event.newState === 'open' && listPeople());

// The connection.

const reasons = {
  4400: 'The server could not understand this page. Reload it.',
  4401: 'The server does not know you any more.',
  4403: 'You have been banned.',
  4409: 'You have too many tabs open here; this one was closed.',
};
let ticking = 0;

client.on('state', ({ state, until, why }) => {
  clearTimeout(ticking);
  drawOnline();
  switch (state) {
    case 'open': {
      failedOnce = false;
      banner('');
      const { node, version } = client.server;
      ui.node.textContent = node;
      ui.node.title = `Answered by ${node}, Parley ${version}; messages are kept: ${client.durability}`;
      myName.set(client.user.name);
      drawMe();
      for (const room of joined.values()) {
        for (const message of room.messages) message.own = message.from.id === client.user.id; // one may be somebody else now
      }
      draw();
      listRooms();
      return;
    }
    case 'connecting':
      ticking = setTimeout(() => banner(failedOnce ? 'Reconnecting…' : 'Connecting…'), failedOnce ? 0 : 600);
      return;
    case 'waiting': {
      failedOnce = true;
      ui.node.textContent = '';
      const tick = () => {
        const seconds = Math.ceil((until - Date.now()) / 1000);
        banner(seconds > 1 ? `Reconnecting in ${seconds} s…` : 'Reconnecting…', seconds > 2 ? 'Try now' : '');
        ticking = setTimeout(tick, 1000);
      };
      return tick();
    }
    case 'stopped':
      ui.node.textContent = '';
      if (!why) return;
      if (why.code === 'bad_request') return ask(why.message);
      if (why.code === 4401 && !client.user) ask(reasons[4401]);
      banner(reasons[why.code] ?? `The server has ended the connection: ${why.message || why.code}.`, 'Try again');
  }
});

client.on('lost', ({ room: id, reason, error }) => {
  const room = joined.get(id);
  if (!room) return;
  const gone = { left: 'You have left this room.', kicked: 'You were removed from this room.', banned: 'You are banned from this room.', deleted: 'This room is no more.', not_found: 'There is no such room.' };
  room.lost = gone[reason] ?? `You cannot be here: ${error?.message ?? reason}.`;
  if (room === current) drawTop();
});

function banner(text, action = '') {
  const button = ui.banner.querySelector('button');
  ui.banner.hidden = !text;
  const line = ui.banner.querySelector('.text');
  if (line.textContent !== text) line.textContent = text;
  button.hidden = !action;
  button.textContent = action;
}
ui.banner.querySelector('button').addEventListener('click', () => {
  client.wake();
  client.start();
});

addEventListener('online', () => client.wake());
document.addEventListener('visibilitychange', () => {
  if (document.visibilityState !== 'visible') return;
  look();
  drawRooms();
  listRooms();
});

let today = new Date().toDateString();
setInterval(() => {
  if (document.visibilityState === 'visible' && client.state === 'open') listRooms();
  if (today === (today = new Date().toDateString())) return;
  draw(); // yesterday is no longer today
}, ROOMS_AGAIN);

// Who one is.

function drawMe() {
  ui.me.hidden = false;
  avatar(client.user, ui.me.querySelector('.avatar'));
  ui.me.querySelector('.name').textContent = client.user.name;
}

function ask(problem = '') {
  const again = client.user !== null;
  ui.welcome.querySelector('h2').textContent = again ? 'Change your name' : 'Welcome to Parley';
  ui.welcome.querySelector('.lead').textContent = again ? 'You start anew under it: what you have written keeps your old name.' : 'What should people call you?';
  ui.welcome.querySelector('button[type=submit]').textContent = again ? 'Change name' : 'Start chatting';
  ui.welcome.querySelector('.quiet').hidden = !again || problem !== '';
  ui.nameError.textContent = problem;
  ui.name.value = myName.get() ?? '';
  if (!ui.welcome.open) ui.welcome.showModal();
  ui.name.select();
}

ui.welcome.querySelector('form').addEventListener('submit', (event) => {
  event.preventDefault();
  const name = cleaned(ui.name.value).replace(/\s+/gu, ' ').trim();
  if (!name) {
    ui.nameError.textContent = 'Please choose a name.';
    return;
  }
  if (client.waiting && client.user && client.state !== 'stopped') {
    ui.nameError.textContent = 'Wait until your messages are sent.';
    return;
  }
  ui.welcome.close();
  if (client.state === 'open' && name === client.user.name) return;
  myName.set(name);
  token.set(null);
  client.name = name;
  client.stop();
  client.start();
  ui.text.focus();
});
ui.welcome.addEventListener('cancel', (event) => {
  if (ui.welcome.querySelector('.quiet').hidden) event.preventDefault(); // there is nothing without a name
});
ui.welcome.querySelector('.quiet').addEventListener('click', () => ui.welcome.close());
ui.me.addEventListener('click', () => ask());

// Getting around.

function openMenu(open) {
  document.body.classList.toggle('menu', open);
  ui.menu.setAttribute('aria-expanded', String(open));
}
ui.menu.addEventListener('click', () => openMenu(!document.body.classList.contains('menu')));
$('#shade').addEventListener('click', () => openMenu(false));
addEventListener('keydown', (event) => event.key === 'Escape' && openMenu(false));
ui.rooms.addEventListener('click', (event) => event.target.closest('[aria-current]') && openMenu(false));

$('#new-room').addEventListener('submit', (event) => {
  event.preventDefault();
  const id = ui.newRoom.value.trim().replace(/^#/, '').replace(/\s+/gu, '-').replace(/[^A-Za-z0-9_-]/g, '');
  if (!id) return ui.newRoom.focus();
  ui.newRoom.value = '';
  location.hash = id;
});

addEventListener('hashchange', roomFromHash);
roomFromHash();
if (myName.get()) client.start();
else ask();
