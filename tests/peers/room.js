// Speaks hubbub's protocol: joins a room, says something there, and tells all envelopes that it got.
"use strict";

const { connect, run } = require("./ws.js");

run(async (url, room) => {
  const socket = connect(url, ["unknown.protocol", "hubbub.v1.json"]);
  const seen = [];
  const until = async (wanted) => {
    while (!seen.some(wanted)) seen.push(JSON.parse((await socket.next())[1]));
  };
  await until(({ type }) => type === "$welcome");
  socket.send(JSON.stringify({ type: "$join", id: 1, room }));
  await until(({ id }) => id === 1);
  socket.send(JSON.stringify({ type: "say", id: 2, room, data: { text: "hi from node" } }));
  await until(({ id }) => id === 2);
  await until(({ type }) => type === "say");
  return { protocol: socket.protocol, seen };
});
