// What a conversation looks like. All text reaches the page as text nodes.

const GROUP_WITHIN = 5 * 60_000;
const LINK = /https?:\/\/[^\s<>"'`\u200e\u200f\u202a-\u202e\u2066-\u2069]+/gi;

const clockTime = new Intl.DateTimeFormat(undefined, { hour: 'numeric', minute: '2-digit' });
const fullTime = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'medium' });
const thisYear = new Intl.DateTimeFormat(undefined, { weekday: 'long', day: 'numeric', month: 'long' });
const otherYear = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'long', year: 'numeric' });

/** Makes an element with a class and children; strings become text nodes. */
export function element(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

/** A person's hue, 0 ... 359: the same everywhere. */
export function hue(id) {
  let h = 2166136261;
  for (const c of id) h = Math.imul(h ^ c.codePointAt(0), 16777619);
  return (h >>> 0) % 360;
}

/** A person's initials on their colour. */
export function avatar(person, node = element('span', 'avatar')) {
  const words = person.name.trim().split(/\s+/u);
  const letters = words.length > 1 ? [words[0], words.at(-1)] : [words[0]];
  node.textContent = letters.map((word) => [...word][0] ?? '').join('').toLocaleUpperCase();
  node.setAttribute('aria-hidden', 'true');
  node.style.setProperty('--hue', hue(person.id));
  return node;
}

/** "Today", "Yesterday" or a date. */
export function dayName(time, now = Date.now()) {
  const date = new Date(time);
  const today = new Date(now);
  if (date.toDateString() === today.toDateString()) return 'Today';
  const yesterday = new Date(today.getFullYear(), today.getMonth(), today.getDate() - 1);
  if (date.toDateString() === yesterday.toDateString()) return 'Yesterday';
  return (date.getFullYear() === today.getFullYear() ? thisYear : otherYear).format(date);
}

/** The text with its http and https addresses as links. */
export function linked(text) {
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(LINK)) {
    let address = match[0].replace(/[.,:;!?*_~]+$/u, '');
    while (/[)\]}]$/.test(address) && !balanced(address)) address = address.slice(0, -1).replace(/[.,:;!?]+$/u, '');
    if (!URL.canParse?.(address)) continue;
    const a = element('a', '', address);
    a.href = address;
    a.target = '_blank';
    a.rel = 'noopener noreferrer nofollow';
    parts.push(text.slice(end, match.index), a);
    end = match.index + address.length;
  }
  parts.push(text.slice(end));
  return parts;
}

function balanced(s) {
  const close = s.at(-1);
  const open = { ')': '(', ']': '[', '}': '{' }[close];
  return s.split(open).length >= s.split(close).length;
}

/**
 * The list of one room's messages, and below them one's own that were not accepted yet.
 * A message is {time, from, text, own}; an item is as in client.js.
 */
export class Timeline {
  #list;
  #last = null; // the last message drawn
  #tail = []; // the rows of the items
  #actions;

  /** actions: {retry(item), discard(item)}. */
  constructor(list, actions) {
    this.#list = list;
    this.#actions = actions;
  }

  /** Draws everything anew. */
  draw(messages, items, me) {
    this.#last = null;
    this.#tail = [];
    this.#list.replaceChildren(...this.#rows(messages));
    this.items(items, me);
  }

  /** Adds messages at the end. */
  add(messages, items, me) {
    this.#drop();
    this.#list.append(...this.#rows(messages));
    this.items(items, me);
  }

  /** Draws one's own unaccepted messages. */
  items(items, me) {
    this.#drop();
    let last = this.#last;
    for (const item of items) {
      const message = { time: item.time ?? item.made, from: me, text: item.text, own: true };
      const row = this.#row(message, last);
      row.classList.add(item.error ? 'failed' : item.time ? 'accepted' : 'waiting');
      if (item.error) row.append(this.#failure(item));
      else if (!item.time) row.append(element('span', 'unseen', ' (not sent yet)'));
      this.#tail.push(row);
      last = message;
    }
    this.#list.append(...this.#tail);
  }

  #drop() {
    for (const row of this.#tail) row.remove();
    this.#tail = [];
  }

  #rows(messages) {
    const rows = [];
    for (const message of messages) {
      const day = dayName(message.time);
      if (!this.#last || dayName(this.#last.time) !== day) {
        rows.push(element('li', 'day', element('span', '', day)));
        this.#last = null;
      }
      rows.push(this.#row(message, this.#last));
      this.#last = message;
    }
    return rows;
  }

  #row(message, last) {
    const { from, time, text, own } = message;
    const follows = last && last.from.id === from.id && time - last.time < GROUP_WITHIN;
    const row = element('li', `message ${follows ? 'follows' : 'leads'}${own ? ' own' : ''}`);
    const when = element('time', '', clockTime.format(time));
    when.dateTime = new Date(time).toISOString();
    when.title = fullTime.format(time);
    if (follows) {
      row.append(when);
    } else {
      const name = element('bdi', 'name', from.name);
      name.style.setProperty('--hue', hue(from.id));
      row.append(avatar(from), element('div', 'head', name, own ? element('span', 'you', 'you') : '', when));
    }
    const body = element('div', 'text', ...linked(text));
    body.dir = 'auto';
    row.append(body);
    return row;
  }

  #failure(item) {
    const retry = element('button', '', 'Send again');
    const discard = element('button', '', 'Discard');
    retry.type = discard.type = 'button';
    retry.onclick = () => this.#actions.retry(item);
    discard.onclick = () => this.#actions.discard(item);
    return element('div', 'failure', `Not sent: ${item.error.message}. `, retry, discard);
  }
}
