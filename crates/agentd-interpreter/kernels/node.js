// Executes the cells of a session in one Node process.
//
// The host writes a frame for each cell to descriptor 9, and reads the frames of the results from it. A frame is a decimal length,
// a line feed, and as many bytes of JSON. Standard output and standard error go to the host directly, so that nothing that the
// code of a cell prints can look like a frame.
"use strict";

const { writeSync } = require("node:fs");
const { createRequire } = require("node:module");
const { Socket } = require("node:net");
const { Writable } = require("node:stream");
const { inspect } = require("node:util");
const vm = require("node:vm");

const MAX_FRAME = 8 << 20;
const MAX_WAITING = 64 << 20;
const MAX_TEXT = 256 << 10;
const MAX_ROWS = 1000;
const TABLE = "application/vnd.agentd.table+json";

const control = new Socket({ fd: 9, readable: true, writable: true });
let cell = 0;
let number = 0;
let executing = false;
let interrupted = null;

// Writes at once. The streams of Node keep in memory what a pipe does not accept until the code returns to the event loop.
class Output extends Writable {
  constructor(fd) {
    super({ decodeStrings: true });
    this.fd = fd;
  }

  _write(piece, _encoding, done) {
    for (let rest = piece; rest.length > 0; ) {
      try {
        rest = rest.subarray(writeSync(this.fd, rest));
      } catch (error) {
        if (error.code !== "EAGAIN") return done(error);
        // A child process has made the pipe non-blocking.
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
      }
    }
    done();
  }
}

class Interrupted extends Error {
  constructor() {
    super("the cell was interrupted");
    this.name = "Interrupted";
  }
}

function encode(message) {
  // A half of a surrogate pair has no form in UTF-8. The conversion replaces it.
  return Buffer.from(JSON.stringify(message, (_, value) => (typeof value === "string" ? Buffer.from(value).toString() : value)));
}

function send(type, members) {
  // A timer that outlives its cell has nothing to report.
  if (!executing) return;
  if (control.writableLength > MAX_WAITING) throw new Error("the cell displays values without returning to the event loop");
  let frame = encode({ type, cell, ...members });
  if (frame.length > MAX_FRAME) {
    const note = `[a result of ${frame.length} bytes is longer than the limit of ${MAX_FRAME} bytes]`;
    frame = encode({ type, cell, data: { "text/plain": note } });
  }
  control.write(Buffer.concat([Buffer.from(`${frame.length}\n`), frame]));
}

function cut(text) {
  return text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)} …` : text;
}

function plain(value) {
  try {
    return cut(inspect(value, { depth: 4 }));
  } catch {
    return "[inspect failed]";
  }
}

function isRecord(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value) && !Buffer.isBuffer(value);
}

function table(rows) {
  const columns = [...new Set(rows.slice(0, MAX_ROWS).flatMap((row) => Object.keys(row)))];
  // JSON has neither bigints nor functions, and the host limits the depth of a frame.
  const cellOf = (value) => (["string", "number", "boolean"].includes(typeof value) ? value : plain(value));
  const cells = rows.slice(0, MAX_ROWS).map((row) => columns.map((column) => (row[column] == null ? null : cellOf(row[column]))));
  return { columns, index: cells.map((_, number) => number), rows: cells, total_rows: rows.length };
}

// Returns the forms of a value, by MIME type.
function bundle(value) {
  const forms = { "text/plain": plain(value) };
  try {
    if (Buffer.isBuffer(value) && value.subarray(0, 4).equals(Buffer.from([0x89, 0x50, 0x4e, 0x47]))) {
      forms["image/png"] = value.toString("base64");
    } else if (Array.isArray(value) && value.length > 0 && value.every(isRecord)) {
      forms[TABLE] = table(value);
    }
    return forms;
  } catch {
    return { "text/plain": forms["text/plain"] };
  }
}

function display(...values) {
  for (const value of values) send("display", { data: bundle(value) });
}
display.html = (text) => send("display", { data: { "text/plain": "[HTML]", "text/html": String(text) } });
display.svg = (text) => send("display", { data: { "text/plain": "[SVG]", "image/svg+xml": String(text) } });
display.png = (bytes) => send("display", { data: { "text/plain": "[PNG]", "image/png": Buffer.from(bytes).toString("base64") } });

function report(error) {
  const isError = error !== null && typeof error === "object" && "message" in error;
  const name = isError ? String(error.name ?? "Error") : typeof error;
  const value = isError ? String(error.message) : plain(error);
  // The frames of this file and of Node are not those of the cell.
  const ofCell = (line) => !line.includes(__filename) && !/^ +at .*\bnode:/.test(line);
  const traceback = isError && typeof error.stack === "string" ? error.stack.split("\n").filter(ofCell).join("\n") : plain(error);
  send("error", { name, value: cut(value), traceback: cut(traceback) });
}

function compile(source) {
  number += 1;
  const options = { filename: `cell-${number}.js`, importModuleDynamically: vm.constants?.USE_MAIN_CONTEXT_DEFAULT_LOADER };
  try {
    return new vm.Script(source, options);
  } catch (error) {
    // At the top level, `await` is valid only in a function. The variables of such a cell end with it.
    if (!(error instanceof SyntaxError) || !/\bawait\b/.test(source)) throw error;
    return new vm.Script(`(async () => {\n${source}\n})()`, options);
  }
}

async function execute(source) {
  const stop = new Promise((_, reject) => {
    interrupted = () => reject(new Interrupted());
  });
  stop.catch(() => {});
  try {
    const value = await Promise.race([compile(source).runInThisContext({ breakOnSigint: true }), stop]);
    if (value !== undefined) {
      globalThis._ = value;
      send("value", { data: bundle(value) });
    }
    return "ok";
  } catch (error) {
    const stopped = error instanceof Interrupted || error?.code === "ERR_SCRIPT_EXECUTION_INTERRUPTED";
    report(stopped ? new Interrupted() : error);
    return stopped ? "interrupted" : "error";
  } finally {
    interrupted = null;
  }
}

async function serve(request) {
  cell = request.cell;
  executing = true;
  const status = await execute(Buffer.from(request.source, "base64").toString());
  send("done", { status, exit_code: status === "ok" ? 0 : 1 });
  executing = false;
}

let received = Buffer.alloc(0);
let busy = false;

async function next() {
  if (busy) return;
  const end = received.indexOf("\n");
  if (end < 0) return;
  const length = Number(received.subarray(0, end).toString());
  if (received.length < end + 1 + length) return;
  const request = JSON.parse(received.subarray(end + 1, end + 1 + length).toString());
  received = received.subarray(end + 1 + length);
  busy = true;
  await serve(request);
  busy = false;
  next();
}

for (const [name, fd] of [["stdout", 1], ["stderr", 2]]) {
  Object.defineProperty(process, name, { value: new Output(fd), configurable: true, enumerable: true });
}
process.on("SIGINT", () => interrupted?.());
process.on("uncaughtException", (error) => process.stderr.write(`Uncaught ${inspect(error)}\n`));
process.on("unhandledRejection", (error) => process.stderr.write(`Unhandled rejection: ${inspect(error)}\n`));
globalThis.require = createRequire(`${process.cwd()}/`);
globalThis.display = display;
control.on("data", (piece) => {
  received = Buffer.concat([received, piece]);
  next();
});
control.on("end", () => process.exit(0));
control.on("error", () => process.exit(1));
