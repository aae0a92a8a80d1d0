// A client of Socket.IO that does what it is told, line by line on standard input, and tells what it sees, as lines
// of JSON. Binary data is told and taken as {"$binary": "<base64>"}.
"use strict";

const readline = require("node:readline");
const { Manager } = require("socket.io-client");

const managers = {};
const sockets = {};

const told = (value) => {
  if (value instanceof ArrayBuffer) value = Buffer.from(value);
  if (ArrayBuffer.isView(value)) return { $binary: Buffer.from(value).toString("base64") };
  if (Array.isArray(value)) return value.map(told);
  if (value && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, told(item)]));
  return value;
};
const taken = (value) => {
  if (Array.isArray(value)) return value.map(taken);
  if (value && typeof value === "object") {
    if ("$binary" in value) return Buffer.from(value.$binary, "base64");
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, taken(item)]));
  }
  return value;
};
const tell = (socket, kind, value) => console.log(JSON.stringify({ socket, kind, value: told(value) ?? null }));

const commands = {
  // Opens a socket: over the line of an earlier one, if `over` names it.
  open({ socket: name, url, namespace = "/", over, options = {}, auth }) {
    const manager = over ? managers[over] : new Manager(url, { reconnectionDelay: 100, ...options });
    managers[name] = manager;
    const socket = (sockets[name] = manager.socket(namespace, auth ? { auth } : {}));
    socket.on("connect", () =>
      tell(name, "connect", {
        id: socket.id,
        recovered: Boolean(socket.recovered),
        transport: manager.engine.transport.name,
      }),
    );
    socket.on("disconnect", (reason) => tell(name, "disconnect", reason));
    socket.on("connect_error", (error) =>
      tell(name, "connect_error", { message: error.message, data: error.data, active: socket.active }),
    );
    socket.onAny((...event) => tell(name, "event", event));
    if (!over) manager.on("open", () => manager.engine.on("upgrade", (to) => tell(name, "upgrade", to.name)));
  },
  emit({ socket, args }) {
    sockets[socket].emit(...taken(args));
  },
  ask({ socket, args, number }) {
    sockets[socket].emit(...taken(args), (...answer) => tell(socket, "answer", [number, ...answer]));
  },
  volatile({ socket, args }) {
    sockets[socket].volatile.emit(...taken(args));
  },
  disconnect({ socket }) {
    sockets[socket].disconnect();
  },
  connect({ socket }) {
    sockets[socket].connect();
  },
  // Reconnects elsewhere, as behind a load balancer.
  move({ socket, url }) {
    managers[socket].uri = url;
  },
  // Breaks the line off as a network does.
  cut({ socket }) {
    managers[socket].engine.transport.ws._socket.destroy();
  },
};

readline
  .createInterface({ input: process.stdin })
  .on("line", (line) => {
    const { do: command, ...rest } = JSON.parse(line);
    commands[command](rest);
  })
  .on("close", () => process.exit(0));
