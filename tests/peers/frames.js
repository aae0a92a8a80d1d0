// Fragments with pings between them, pings with a payload, and a close of its own.
"use strict";

const { connect, run } = require("./ws.js");

run(async (url) => {
  const socket = connect(url, [], { perMessageDeflate: false });
  await socket.opened;
  const seen = [];
  socket.send("one ", { fin: false });
  socket.ping("between");
  seen.push(await socket.next());
  socket.send("two ", { fin: false });
  socket.send("three", { fin: true });
  seen.push(await socket.next());
  socket.ping("x".repeat(125));
  seen.push(await socket.next());
  socket.close(4001, "from node");
  seen.push(await socket.next());
  return seen;
});
