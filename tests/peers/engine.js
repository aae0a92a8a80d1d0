// engine.io-client: sends numbered messages, text and binary in turn, and tells what comes back, in order,
// and over which transports. Sends on while it changes its transport.
"use strict";

const { Socket } = require("engine.io-client");
const { run } = require("./ws.js");

run(async (url, transports, count) => {
  const socket = new Socket(url, { transports: JSON.parse(transports), path: "/engine.io/" });
  const received = [];
  const used = [];
  let sent = 0;
  await new Promise((resolve, reject) => {
    socket.on("open", () => {
      used.push(socket.transport.name);
      const timer = setInterval(() => {
        for (let i = 0; i < 5 && sent < count; i++, sent++) {
          socket.send(sent % 3 === 2 ? Buffer.from(`${sent}`) : `${sent}`);
        }
        if (sent >= count) {
          clearInterval(timer);
        }
      }, 1);
    });
    socket.on("upgrade", (transport) => used.push(transport.name));
    socket.on("upgradeError", reject);
    socket.on("message", (data) => {
      received.push([Number(data.toString()), typeof data !== "string"]);
      if (received.length >= count) {
        resolve();
      }
    });
    socket.on("close", (reason, problem) => reject(new Error(`${reason}: ${problem}`)));
  });
  const wanted = Array.from({ length: count }, (_, number) => [number, number % 3 === 2]);
  const inOrder = JSON.stringify(received) === JSON.stringify(wanted);
  socket.removeAllListeners("close");
  const closed = new Promise((resolve) => socket.on("close", resolve));
  const { transport } = socket;
  socket.close();
  const reason = await closed;
  if (transport.name === "polling") {
    // It says so in a request, which has to be answered.
    await new Promise((resolve) => transport.on("drain", resolve));
  }
  return { used, inOrder, closed: reason };
});
