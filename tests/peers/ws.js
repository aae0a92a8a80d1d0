// What every script here does with its connection: it tells what it saw as one line of JSON, and exits.
"use strict";

const WebSocket = require("ws");

const GIVES_UP_AFTER = 20_000; // milliseconds

function connect(url, protocols = [], options = {}) {
  const socket = new WebSocket(url, protocols, options);
  const waiting = [];
  const arrived = [];
  const put = (event) => (waiting.length ? waiting.shift()(event) : arrived.push(event));

  socket.on("message", (data, binary) => put(["message", binary ? data : data.toString()]));
  socket.on("ping", (data) => put(["ping", data.toString()]));
  socket.on("pong", (data) => put(["pong", data.toString()]));
  socket.on("close", (code, reason) => put(["close", code, reason.toString()]));
  socket.on("unexpected-response", (_, response) => put(["refused", response.statusCode]));
  socket.on("error", (problem) => put(["error", problem.message]));
  socket.next = () =>
    arrived.length ? Promise.resolve(arrived.shift()) : new Promise((resolve) => waiting.push(resolve));
  socket.opened = new Promise((resolve) => socket.on("open", resolve));
  return socket;
}

function run(main) {
  const timer = setTimeout(() => fail(new Error("nothing came in time")), GIVES_UP_AFTER);
  const fail = (problem) => {
    console.error(problem);
    process.exit(1);
  };
  main(...process.argv.slice(2)).then((outcome) => {
    clearTimeout(timer);
    console.log(JSON.stringify(outcome));
    process.exit(0);
  }, fail);
}

module.exports = { connect, run };
