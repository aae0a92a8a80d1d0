// A line to a hubbub server that comes back by itself. It knows the protocol's envelope and nothing of chat.
//
//   const line = new Line(url, { opened, received, lost, refused });
//   await line.request("$join", { room: "chat/lobby" });      // resolves with the data of the server's $ack

const DELAYS = [0, 1, 2, 4, 8]; // seconds at most before each attempt; the last one repeats for ever
const STEADY = 10; // seconds a connection must have held before the next loss starts over at the first delay
const PATIENCE = 10; // seconds to wait for $welcome, and for the answer to a request
const PROBE = 5; // seconds to wait for a sign of life after the network changed
const LONGEST_DRAIN = 60; // seconds: no server keeps the page away for longer
const FINAL = [1000, 1002, 1003, 1005, 1007, 1009]; // close codes after which, as after 44xx, nobody comes back

/** The server's $error: `code`, `message`, `retry`. */
export class Refusal extends Error {
  constructor({ code, message, retry }) {
    super(message);
    this.code = code;
    this.retry = retry;
  }
}

/** The connection went before the answer came: the request may or may not have been carried out. */
export class Lost extends Error {}

export class Line {
  #url;
  #on;
  #socket = null;
  #open = false;
  #openedAt = 0;
  #heartbeat = 20;
  #silence = 0; // timer: fires when nothing arrived for too long
  #retry = 0; // timer: the next attempt
  #attempt = 0;
  #drain = null; // seconds to stay away after the close, when the server said so
  #lastId = 0;
  #requests = new Map(); // id -> { resolve, reject, timer }

  /**
   * `opened(welcome)`, `received(message)`, `lost(time of the next attempt)`, `refused(close code, reason)`.
   * After `refused` nothing more is tried.
   */
  constructor(url, on) {
    this.#url = url;
    this.#on = on;
    this.connect();
    addEventListener("online", this.#networkChanged);
    addEventListener("offline", this.#networkChanged);
  }

  get isOpen() {
    return this.#open;
  }

  /** Connect now, without waiting for the next attempt. */
  connect() {
    this.#drop();
    this.#socket = new WebSocket(this.#url);
    this.#socket.onmessage = (event) => this.#receive(JSON.parse(event.data));
    this.#socket.onclose = (event) => this.#closed(event.code, event.reason);
    this.#expectSomething(PATIENCE);
  }

  /** Close the line and don't come back. */
  close() {
    this.#drop();
    removeEventListener("online", this.#networkChanged);
    removeEventListener("offline", this.#networkChanged);
  }

  /** Send, if the line is open; what happens to it is not told. */
  send(type, fields = {}) {
    if (this.#open) this.#socket.send(JSON.stringify({ type, ...fields }));
  }

  /** Send and wait for the answer. Rejects with `Refusal` or `Lost`. */
  request(type, fields = {}) {
    return new Promise((resolve, reject) => {
      if (!this.#open) return reject(new Lost());
      const id = ++this.#lastId;
      const timer = setTimeout(() => this.#closed(), PATIENCE * 1000);
      this.#requests.set(id, { resolve, reject, timer });
      this.send(type, { id, ...fields });
    });
  }

  #receive(message) {
    const { type, id, data } = message;
    if (type === "$welcome") this.#heartbeat = data.heartbeat;
    this.#expectSomething(2 * this.#heartbeat);
    if (type === "$welcome") {
      this.#open = true;
      this.#openedAt = Date.now();
      this.#on.opened(data);
    } else if (this.#requests.has(id)) {
      const { resolve, reject, timer } = this.#requests.get(id);
      clearTimeout(timer);
      this.#requests.delete(id);
      if (type === "$ack") resolve(data);
      else reject(new Refusal(data));
    } else if (type === "$ping") {
      this.send("$pong");
    } else if (type === "$drain") {
      this.#drain = Math.min(data.after, LONGEST_DRAIN);
    } else if (type !== "$pong") {
      this.#on.received(message);
    }
  }

  #closed(code, reason) {
    this.#drop();
    if (FINAL.includes(code) || (code >= 4400 && code < 4500)) {
      this.close();
      return this.#on.refused(code, reason);
    }
    if (Date.now() - this.#openedAt > STEADY * 1000) this.#attempt = 0;
    const longest = DELAYS[Math.min(this.#attempt++, DELAYS.length - 1)];
    // A random part of the delay: when a server dies, its clients don't all come back in the same instant.
    const delay = 1000 * (this.#drain ?? longest * Math.random());
    this.#drain = null;
    this.#retry = setTimeout(() => this.connect(), delay);
    this.#on.lost(Date.now() + delay);
  }

  // A dead network leaves a socket that never closes, so silence counts as a close.
  #expectSomething(seconds) {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#closed(), seconds * 1000);
  }

  #networkChanged = (event) => {
    if (this.#open) {
      this.send("$ping");
      this.#expectSomething(PROBE);
    } else if (event.type === "online") {
      this.connect();
    }
  };

  #drop() {
    clearTimeout(this.#silence);
    clearTimeout(this.#retry);
    this.#open = false;
    if (this.#socket) {
      this.#socket.onmessage = this.#socket.onclose = null;
      this.#socket.close();
      this.#socket = null;
    }
    for (const { reject, timer } of this.#requests.values()) {
      clearTimeout(timer);
      reject(new Lost());
    }
    this.#requests.clear();
  }
}
