// One connection: requests and their replies, and the watch on its silence.

const REPLY_WITHIN = 15_000; // the server answers, if only with unavailable, well before
const SILENCE = 10_000;

/** An error that the server sent, or that stands for its silence. */
export class Refused extends Error {
  constructor({ code, message, field, retry, retry_after_ms: retryAfter }) {
    super(message);
    this.name = 'Refused';
    this.code = code;
    this.field = field;
    this.retry = retry === true;
    this.retryAfter = retryAfter ?? 0;
  }
}

/** Its owner sets opened(), heard(event) and closed(code, reason); closed is called once, unless it was let go. */
export class Link {
  opened = () => {};
  heard = () => {};
  closed = () => {};
  draining = false;
  token = null; // with which it connects, then the newest that it was prolonged with

  #socket;
  #clock;
  #asked = new Map(); // id → {done, timer}
  #lastID = 0;
  #lastHeard = 0;
  #over = false;
  #expiry = null;
  #silence = null;
  #settled = null;

  constructor(socket, clock) {
    this.#socket = socket;
    this.#clock = clock;
    socket.onopen = () => this.#over || this.opened();
    socket.onmessage = (message) => this.#over || this.#receive(message.data);
    socket.onclose = (event) => this.#end(event.code, event.reason);
  }

  /** Asks; done(error, ok) is called once: with the reply, after 15 s, or when the connection ends. */
  request(op, fields, done) {
    if (this.#over) return done(new Refused({ code: 'disconnected', message: 'disconnected', retry: true }));
    const id = ++this.#lastID;
    const timer = this.#clock.after(REPLY_WITHIN, () => {
      this.#answer(id, new Refused({ code: 'unavailable', message: 'no answer', retry: true }));
    });
    this.#asked.set(id, { done, timer });
    this.#socket.send(JSON.stringify({ id, op, ...fields }));
  }

  /** Tells, without wanting a reply. */
  tell(op, fields) {
    if (!this.#over) this.#socket.send(JSON.stringify({ op, ...fields }));
  }

  /** Ends the connection after so many milliseconds; 0 takes that back. */
  expire(ms) {
    this.#clock.cancel(this.#expiry);
    this.#expiry = ms ? this.#clock.after(ms, () => this.#lose()) : null;
  }

  /** After so many milliseconds of silence asks whether anybody is there; after 10 s more it is lost. */
  watch(ms) {
    if (!(ms > 0)) return;
    this.#clock.cancel(this.#silence);
    const quiet = this.#clock.now() - this.#lastHeard;
    this.#silence = this.#clock.after(Math.max(0, ms - quiet), () => {
      if (this.#clock.now() - this.#lastHeard < ms) return this.watch(ms);
      const asked = this.#lastHeard;
      this.request('ping', {}, () => {});
      this.#silence = this.#clock.after(SILENCE, () => (this.#lastHeard === asked ? this.#lose() : this.watch(ms)));
    });
  }

  /** Calls fn once nothing is unanswered, at the latest after so many milliseconds, and not if the link ends before. */
  settled(ms, fn) {
    const timer = this.#clock.after(ms, () => this.#settled?.());
    this.#settled = () => {
      this.#clock.cancel(timer);
      this.#settled = null;
      if (!this.#over) fn();
    };
    if (!this.#asked.size) this.#settled();
  }

  /** Closes it; closed is not called. */
  close() {
    this.closed = () => {};
    this.#end(1000, '');
    this.#socket.close(1000);
  }

  // A lost connection's closing handshake may take minutes, so it is not waited for.
  #lose() {
    this.#end(1006, 'silence');
    this.#socket.close();
  }

  #receive(data) {
    this.#lastHeard = this.#clock.now();
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      return;
    }
    if (frame.event !== undefined) this.heard(frame);
    else if (frame.error) this.#answer(frame.id, new Refused(frame.error));
    else this.#answer(frame.id, null, frame.ok);
  }

  #answer(id, error, ok) {
    const asked = this.#asked.get(id);
    if (!asked) return;
    this.#asked.delete(id);
    this.#clock.cancel(asked.timer);
    asked.done(error, ok);
    if (!this.#asked.size) this.#settled?.();
  }

  #end(code, reason) {
    if (this.#over) return;
    this.#over = true;
    this.#clock.cancel(this.#expiry);
    this.#clock.cancel(this.#silence);
    for (const id of [...this.#asked.keys()]) {
      this.#answer(id, new Refused({ code: 'disconnected', message: 'disconnected', retry: true }));
    }
    this.closed(code, reason);
  }
}
