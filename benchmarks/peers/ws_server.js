"use strict";
// What ws_server.py starts: node ws_server.js PORT plain|deflate

const { WebSocketServer } = require("ws");

const [port, compression] = process.argv.slice(2);
const rooms = new Map();

function membersOf(room) {
  if (!rooms.has(room)) rooms.set(room, new Set());
  return rooms.get(room);
}

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(port),
  backlog: 2048,
  clientTracking: false,
  perMessageDeflate: compression === "deflate",
});

server.on("connection", (socket, request) => {
  const [, action, room] = request.url.split("/");
  socket.on("error", () => socket.terminate());
  if (action === "echo") {
    socket.on("message", (data) => socket.send(data, { binary: false }));
    return;
  }
  const members = membersOf(room);
  if (action === "publish") {
    socket.on("message", (data) => {
      for (const member of members) member.send(data, { binary: false });
    });
    return;
  }
  members.add(socket);
  socket.on("close", () => members.delete(socket));
  socket.send("joined");
});
