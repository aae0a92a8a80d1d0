// The chat: rooms, messages, and the page that shows them. What the server says is told in `line.js`.

import { element, fill, signature } from "./elements.js";
import { Line, Lost, Refusal } from "./line.js";

const SUGGESTED = ["lobby", "kitchen", "garden"];
const MOST_ROOMS = 8; // joined at a time
const MOST_SHOWN = 500; // messages on the page, per room
const MOST_WAITING = 50; // messages kept until they can be sent
const HISTORY = 50; // messages fetched on arrival
const PAUSE = 2000; // milliseconds before the server is asked again, and between two signs of typing
const TYPING_SHOWN = 4000; // milliseconds

const $ = (id) => document.getElementById(id);

let line = null;
let me = "";
let current = null; // the room on the page
const rooms = new Map(); // name -> Room: joined, or to be joined when the line opens; the last visited last
const waiting = []; // { room, text, item, sent }: written, not acknowledged yet; the oldest first

// ---------------------------------------------------------------------------------------------- rooms

class Room {
  entering = false;
  joined = false;
  position = null; // { epoch, offset } of the last message shown
  early = []; // what arrives between joining and the first history
  people = new Set();
  typing = new Map(); // person -> timer
  unread = 0;

  constructor(name) {
    this.name = name;
    this.path = `chat/${name}`;
    this.log = element("ol", "log");
    this.log.role = "log";
    this.log.ariaBusy = "true";
    this.log.ariaLabel = `Messages in ${name}`;
  }

  /** Join: the first time with history, later with what was missed since. */
  async enter() {
    this.log.ariaBusy = "true";
    const since = this.position;
    await line.request("$join", { room: this.path, data: since ? { since } : {} });
    if (!since) {
      this.early = [];
      const past = await line.request("$history", { room: this.path, data: { limit: HISTORY } });
      this.position = { epoch: past.epoch, offset: 0 };
      for (const message of [...past.messages, ...this.early]) this.show(message);
      this.position.offset = Math.max(this.position.offset, past.offset);
    }
    const { members } = await line.request("$presence", { room: this.path });
    this.people = new Set(members.map((member) => member.user));
    this.log.ariaBusy = "false";
    this.joined = true;
  }

  receive(message) {
    const { type, data, from } = message;
    if (type === "say") {
      if (this.position) this.show(message);
      else if (this.early.push(message) > MOST_SHOWN) this.early.shift();
      this.stopTyping(from);
      if (from !== me && (this !== current || document.hidden)) this.unread++;
    } else if (type === "typing" && from !== me) {
      this.stopTyping(from);
      this.typing.set(from, setTimeout(() => { this.stopTyping(from); render(); }, TYPING_SHOWN));
    } else if (type === "$joined") {
      for (const { user } of data) this.people.add(user);
    } else if (type === "$left") {
      for (const { user } of data) {
        this.people.delete(user);
        this.stopTyping(user);
      }
    } else if (type === "$gap") {
      this.position = data;
      this.note("Some messages are missing here.");
    }
  }

  stopTyping(person) {
    clearTimeout(this.typing.get(person));
    this.typing.delete(person);
  }

  /** Offsets only grow, so whatever is not beyond the last one has been shown already. */
  show({ offset, from, data }) {
    if (offset <= this.position.offset) return;
    this.position.offset = offset;
    // An acknowledgement may be lost with the line: then the message comes back among the missed ones.
    if (from === me) forget(waiting.find(({ room, text, sent }) => sent && room === this && text === data.text));
    this.append(speech(from, data.text));
  }

  note(text) {
    this.append(element("li", "note", text));
  }

  append(item) {
    item.classList.toggle("again", item.dataset.author === this.log.lastElementChild?.dataset.author);
    this.log.append(item);
    if (this.log.childElementCount > MOST_SHOWN) this.log.firstElementChild.remove();
    if (this === current && !atEnd) $("to-end").hidden = false;
  }
}

/** Show the room that the address names, and join it if need be. */
function visit() {
  const name = location.hash.slice(1) || SUGGESTED[0];
  current = rooms.get(name) ?? new Room(name);
  current.unread = 0;
  rooms.delete(name);
  rooms.set(name, current);
  if (rooms.size > MOST_ROOMS) leave([...rooms.values()].find((room) => !isWaitedFor(room)));
  $("log").replaceChildren(current.log);
  toEnd();
  render();
  $("rooms").querySelector("[aria-current]").scrollIntoView({ block: "nearest", inline: "nearest" });
  enter(current);
}

async function enter(room) {
  if (room.entering || room.joined || !line?.isOpen || rooms.get(room.name) !== room) return;
  room.entering = true;
  try {
    await room.enter();
    if (!rooms.has(room.name)) line.send("$leave", { room: room.path }); // left meanwhile
  } catch (error) {
    if (error instanceof Lost) return; // `opened` will come here again
    if (!(error instanceof Refusal)) throw error;
    if (rooms.get(room.name) !== room) return;
    if (error.retry) return setTimeout(enter, PAUSE, room);
    $("new-room-error").textContent = error.message;
    leave(room);
  } finally {
    room.entering = false;
  }
  render();
  deliver();
}

function leave(room) {
  rooms.delete(room.name);
  for (const message of waiting.filter((message) => message.room === room)) forget(message);
  if (room.joined) line.send("$leave", { room: room.path });
  if (room === current) location.replace(`#${[...rooms.keys()].at(-1) ?? SUGGESTED[0]}`);
  render();
}

const isWaitedFor = (room) => room === current || waiting.some((message) => message.room === room);

// ------------------------------------------------------------------------------------------- messages

function say(text) {
  waiting.push({ room: current, text, item: speech(me, text) });
  render();
  toEnd();
  deliver();
}

let delivering = false;

/** Send what waits, each after the last one's acknowledgement: so their order holds. */
async function deliver() {
  if (delivering) return;
  delivering = true;
  for (let next; (next = waiting.find((message) => message.room.joined)); ) {
    next.sent = true;
    try {
      await line.request("say", { room: next.room.path, data: { text: next.text } });
    } catch (error) {
      if (error.retry) setTimeout(deliver, PAUSE);
      if (error.retry || error instanceof Lost) break; // when the line is back, `enter` comes here again
      next.room.note(`Not sent: “${next.text}”. ${error.message}`);
    }
    forget(next);
    render();
  }
  delivering = false;
}

function forget(message) {
  if (waiting.includes(message)) waiting.splice(waiting.indexOf(message), 1);
}

// ----------------------------------------------------------------------------------------- connection

let nextAttempt = 0; // when, in milliseconds
let counting = 0; // the timer of the count-down
let wasLost = false;

function connect(name) {
  line?.close();
  me = name;
  const url = new URL(".", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  url.search = new URLSearchParams({ name });
  setState("connecting", "Connecting…");
  line = new Line(url, { opened, received, lost, refused });
}

function opened({ user }) {
  me = user;
  sessionStorage.setItem("name", me); // for this window, so that a second one may be somebody else
  localStorage.setItem("name", me); // what the next window proposes
  if ($("welcome").open) {
    $("welcome").close();
    $("text").focus(); // at once: the dialog's event comes later, when somebody may be typing elsewhere
  }
  setState("open", wasLost ? "Back online." : "Online.");
  wasLost = false;
  for (const room of rooms.values()) enter(room);
}

function received(message) {
  if (message.type === "$error" && line.isOpen) setState("open", message.data.message);
  rooms.get(message.room?.slice("chat/".length))?.receive(message);
  render();
}

function lost(next) {
  wasLost = true;
  nextAttempt = next;
  setState("lost", "Connection lost.");
  $("name-error").textContent = "The server does not answer. Trying again…";
  counting = setInterval(countDown, 250);
}

function refused(code, reason) {
  setState("refused", reason || `The server ended the connection (${code}).`);
  if (code === 4401 || code === 4403) askName(reason);
}

function setState(state, text) {
  clearInterval(counting);
  if (state !== "open") for (const room of rooms.values()) room.joined = false;
  $("line").dataset.state = state;
  $("state").textContent = text;
  $("retry").hidden = state === "open" || state === "connecting";
  render();
}

function countDown() {
  const seconds = Math.ceil((nextAttempt - Date.now()) / 1000);
  const attempt = seconds > 0 ? `Next attempt in ${seconds} s.` : "Trying again…";
  const count = waiting.length === 1 ? "1 message waits" : `${waiting.length} messages wait`;
  const kept = waiting.length ? ` ${count} to be sent${isFull() ? ", no more can be kept" : ""}.` : "";
  $("detail").textContent = $("line").dataset.state === "lost" ? attempt + kept : "";
}

const isFull = () => waiting.length >= MOST_WAITING;

function askName(reason = "") {
  $("name").value = me || localStorage.getItem("name") || "";
  $("name-error").textContent = reason;
  if (!$("welcome").open) $("welcome").showModal();
  $("name").select();
}

// -------------------------------------------------------------------------------------------- drawing

function speech(author, text) {
  const item = element("li", author === me ? "speech mine" : "speech");
  const words = element("p", "words", text);
  item.dataset.author = author;
  words.dir = "auto";
  item.append(...signature(author, "author"), words);
  return item;
}

function person(name) {
  const item = element("li");
  item.append(...signature(name, "name"));
  if (name === me) item.append(element("span", "hint", "you"));
  return item;
}

function door(name) {
  const item = element("li");
  const link = element("a", "", name);
  const unread = element("span", "unread");
  const exit = element("button", "leave", "×");
  link.href = `#${name}`;
  exit.type = "button";
  exit.ariaLabel = `Leave ${name}`;
  exit.onclick = () => leave(rooms.get(name));
  link.append(unread);
  item.append(link, exit);
  return item;
}

/** Bring everything but the conversation up to date. */
function render() {
  const unread = [...rooms.values()].reduce((sum, room) => sum + room.unread, 0);
  document.title = `${unread ? `(${unread}) ` : ""}${current.name} · hubbub`;
  $("room-title").textContent = current.name;
  $("my-name").textContent = me;

  const people = [...current.people].sort((a, b) => (b === me) - (a === me) || a.localeCompare(b));
  fill($("people"), people, person);
  $("head-count").textContent = people.length ? `${people.length} here` : "";

  const names = [...new Set([...SUGGESTED, ...[...rooms.keys()].sort()])];
  fill($("rooms"), names, door);
  names.forEach((name, index) => {
    const [link, exit] = $("rooms").children[index].children;
    const room = rooms.get(name);
    link.ariaCurrent = room === current ? "page" : null;
    link.firstElementChild.textContent = room?.unread || "";
    exit.hidden = !room || rooms.size === 1;
  });

  const items = waiting.filter(({ room }) => room === current).map(({ item }) => item);
  fill($("waiting"), items, (item) => item);
  const typing = [...current.typing.keys()].filter((name) => current.people.has(name));
  $("typing").textContent =
    typing.length > 2 ? "Several people are typing…"
    : typing.length === 2 ? `${typing.join(" and ")} are typing…`
    : typing.length === 1 ? `${typing[0]} is typing…`
    : "";
  countDown();
}

// --------------------------------------------------------------------------------------- what people do

let atEnd = true;
let lastTop = 0;
let lastTyped = 0;

function toEnd() {
  atEnd = true;
  $("to-end").hidden = true;
  $("scroller").scrollTop = $("scroller").scrollHeight;
}

$("scroller").onscroll = () => {
  const { scrollHeight, scrollTop, clientHeight } = $("scroller");
  if (scrollHeight - scrollTop - clientHeight < 2) atEnd = true;
  else if (scrollTop < lastTop) atEnd = false; // somebody reads what was said before
  if (atEnd) $("to-end").hidden = true;
  lastTop = scrollTop;
};
const keepAtEnd = new ResizeObserver(() => atEnd && toEnd());
keepAtEnd.observe($("scroller"));
keepAtEnd.observe($("conversation"));
$("to-end").onclick = toEnd;

$("composer").onsubmit = (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || isFull()) return;
  $("text").value = "";
  lastTyped = 0;
  say(text);
};
$("text").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
};
$("text").oninput = () => {
  if (!current.joined || Date.now() - lastTyped < PAUSE) return;
  lastTyped = Date.now();
  line.send("typing", { room: current.path, data: {} });
};

$("rooms").onclick = $("new-room").oninput = () => ($("new-room-error").textContent = "");
$("new-room").onsubmit = (event) => {
  event.preventDefault();
  location.hash = $("new-room-name").value.trim().toLowerCase().replace(/\s+/g, "-");
  $("new-room-name").value = "";
};

$("rename").onclick = () => askName();
$("welcome-form").onsubmit = (event) => {
  event.preventDefault();
  $("name-error").textContent = "";
  connect($("name").value.trim());
};
$("welcome").oncancel = (event) => line?.isOpen || event.preventDefault();

$("retry").onclick = () => {
  if ($("line").dataset.state === "refused") return connect(me);
  nextAttempt = 0;
  line.connect();
};

document.onvisibilitychange = () => {
  if (!document.hidden) current.unread = 0;
  render();
};
onhashchange = () => {
  visit();
  if (matchMedia("(pointer: fine)").matches) $("text").focus();
};

visit();
if (sessionStorage.getItem("name")) connect(sessionStorage.getItem("name"));
else askName();
