// A storage and verification SCU on dcmjs-dimse; NODE_PATH leads to it.
//
// node dcmjs_scu.js HOST PORT CALLED OPTIONS FILE...   OPTIONS: JSON for `Client.send`; with "tls": true over TLS
// node dcmjs_scu.js HOST PORT CALLED OPTIONS           C-ECHO
//
// One association for each file: its errors about odd files come from callbacks, and end what stood beside them. Each
// line of the output is a file, a tab, and the status of its response in hexadecimal, or what kept it from being sent.
"use strict";

const { Client, log, requests } = require("dcmjs-dimse");

// Longer than any pause of a busy machine, and than the library's own minute: pauses decide nothing here.
const SILENT_MS = 300000;
const PATIENT = { associationTimeout: SILENT_MS, connectTimeout: SILENT_MS, pduTimeout: SILENT_MS };
const say = (name, what) => process.stdout.write(`${name}\t${what}\n`);
let giveUp = () => {};

log.disableAll();
for (const way of ["log", "info", "warn", "error"]) console[way] = () => {}; // its parser tells of odd files there
process.on("uncaughtException", (error) => giveUp(error));

function send(host, port, called, options, name, make) {
  return new Promise((resolve) => {
    const client = new Client();
    const silent = setTimeout(() => giveUp(new Error("silence")), SILENT_MS);
    const done = () => {
      clearTimeout(silent);
      resolve();
    };
    giveUp = (error) => {
      say(name, error.message);
      client.abort?.();
      done();
    };
    const request = make();
    request.on("response", (response) => say(name, response.getStatus().toString(16)));
    client.addRequest(request);
    client.on("associationRejected", () => say(name, "rejected"));
    client.on("networkError", giveUp);
    client.on("closed", done);
    client.send(host, port, "DCMJS", called, options);
  }).catch((error) => say(name, error.message));
}

async function main(host, port, called, given, ...names) {
  const { tls, ...asked } = JSON.parse(given);
  const options = { ...PATIENT, ...asked };
  if (tls) options.securityOptions = { rejectUnauthorized: false };
  const all = names.map((name) => [name, () => new requests.CStoreRequest(name)]);
  if (names.length === 0) all.push(["echo", () => new requests.CEchoRequest()]);
  for (const [name, make] of all) await send(host, Number(port), called, options, name, make);
  process.exit(0);
}

main(...process.argv.slice(2));
