// Says in a room what it reads, prints what is said there, and goes on where it was when its line is lost:
// node chat.js hubbub.proto localhost:50051 token-of-ada
"use strict";

const readline = require("node:readline");
const grpc = require("@grpc/grpc-js");
const { loadSync } = require("@grpc/proto-loader");

const ROOM = "chat/lobby";
const { UNAUTHENTICATED, PERMISSION_DENIED, FAILED_PRECONDITION, INVALID_ARGUMENT } = grpc.status;
const STAY_AWAY = [UNAUTHENTICATED, PERMISSION_DENIED, FAILED_PRECONDITION, INVALID_ARGUMENT];

const [proto, address, token] = process.argv.slice(2);
const { hubbub } = grpc.loadPackageDefinition(loadSync(proto, { longs: Number, oneofs: true }));
const client = new hubbub.v1.Hubbub(address, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${token}`);

let call;
let session; // the newest token
let fresh; // the token of this line's own session, until the earlier one is taken up
let position; // in the room
let attempt = 0;
let wait = 500;
let number = 0;
let entering; // the number of the $join or $resume that has to be answered before anything else is said
const unanswered = new Map(); // what was said, by number

function send(type, data, room) {
  const message = { type, room, number: ++number, data: Buffer.from(JSON.stringify(data)) };
  call.write(message);
  return message;
}

function say(text) {
  const message = { type: "say", room: ROOM, number: ++number, data: Buffer.from(JSON.stringify({ text })) };
  unanswered.set(message.number, message);
  if (call && !entering) call.write(message);
}

function join() {
  session = fresh;
  attempt = 0;
  entering = send("$join", { since: position }, ROOM).number;
}

function entered() {
  entering = undefined;
  for (const message of unanswered.values()) call.write(message);
}

function take({ type, number: answers, room, offset, sender, data: json }) {
  const data = json?.length ? JSON.parse(json) : {};
  if (type === "$welcome" && !answers) {
    fresh = data.session;
    if (!position) return join();
    entering = send("$resume", { session, rooms: { [ROOM]: position }, attempt: ++attempt }).number;
  } else if (type === "$welcome") {
    session = data.session;
    attempt = 0;
    position = data.rooms[ROOM];
    if (!position) return leave(data.refused[ROOM].message);
    console.log("(back)");
    entered();
  } else if (type === "$error" && answers === entering && data.code === "session_refused") {
    // What was said before may have been heard, and would be a second time from another session.
    for (const lost of unanswered.keys()) console.log(`(not known whether ${lost} was said)`);
    unanswered.clear();
    join();
  } else if (type === "$error") {
    if (answers === entering) return leave(data.message);
    console.log(`(${data.message})`);
    unanswered.delete(answers);
  } else if (type === "$ack" && answers === entering) {
    position = data;
    console.log("(here)");
    entered();
  } else if (type === "$ack") {
    unanswered.delete(answers);
  } else if (type === "$gap") {
    position = data;
    console.log("(something was missed)");
  } else if (type === "$drain") {
    wait = data.after * 1000;
  } else if (offset && room === ROOM && !entering) {
    position.offset = offset;
    if (type === "say") console.log(`${sender}: ${data.text}`);
  }
}

function lost({ code, details }) {
  call = undefined;
  console.log(`(lost: ${grpc.status[code]})`);
  if (STAY_AWAY.includes(code)) return leave(details);
  setTimeout(connect, wait);
  wait = 500;
}

function leave(why) {
  console.error(why);
  process.exit(1);
}

function connect() {
  entering = -1; // nothing is said before $welcome
  call = client.connect(metadata);
  call.on("data", ({ messages }) => messages.forEach(take));
  call.on("error", () => {}); // its status says the same
  call.on("status", lost);
}

connect();
readline.createInterface({ input: process.stdin }).on("line", say).on("close", () => process.exit(0));
