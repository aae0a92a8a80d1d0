// Connects, says nothing, and tells everything that it sees until the end, or a number of events.
"use strict";

const { connect, run } = require("./ws.js");

run(async (url, count = "Infinity") => {
  const socket = connect(url);
  const seen = [];
  while (seen.length < Number(count)) {
    const event = await socket.next();
    seen.push(event);
    if (["close", "refused", "error"].includes(event[0])) break;
  }
  return seen;
});
