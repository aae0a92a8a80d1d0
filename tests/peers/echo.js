// Sends texts and binaries of the sizes given to an endpoint that echoes, first each for itself, then all at once.
// What it offers for compression may be given too.
"use strict";

const crypto = require("node:crypto");
const { connect, run } = require("./ws.js");

async function same(socket, sent) {
  const [kind, received] = await socket.next();
  if (kind !== "message" || typeof received !== typeof sent) return false;
  return typeof sent === "string" ? received === sent : received.equals(sent);
}

run(async (url, sizes, perMessageDeflate = "true") => {
  const messages = JSON.parse(sizes).flatMap((size) => ["é".repeat(size / 2), crypto.randomBytes(size)]);
  const socket = connect(url, [], { perMessageDeflate: JSON.parse(perMessageDeflate) });
  await socket.opened;
  const one_by_one = [];
  for (const message of messages) {
    socket.send(message);
    one_by_one.push(await same(socket, message));
  }
  messages.forEach((message) => socket.send(message));
  const all_at_once = [];
  for (const message of messages) all_at_once.push(await same(socket, message));
  return { extensions: socket.extensions, one_by_one, all_at_once };
});
