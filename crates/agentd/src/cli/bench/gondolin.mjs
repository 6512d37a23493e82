// Gondolin without agentd, for comparison. Starts a machine. For each line of standard input, "session" or "sdk", executes the
// program through Gondolin's session socket or its SDK, and prints the time that this took in microseconds.
import fs from "node:fs";
import net from "node:net";
import readline from "node:readline";

const { VM } = await import("/agentd/package/node_modules/@earendil-works/gondolin/dist/src/index.js");
const machine = await VM.create({
    sandbox: { imagePath: "/agentd/guest", memory: "1024M", netEnabled: false, append: "console=ttyS0 quiet" },
    rootfs: { mode: "memory" },
    vfs: null,
});
// Without host files (`vfs: null`), the SDK does not wait for the guest by itself.
await machine.start();
await machine.exec([process.argv[2]]);

// A frame is a type (1 byte), a length (4 bytes) and a body; the body of type 0 is a JSON message.
const sessions = process.env.GONDOLIN_SESSIONS_DIR;
const socket = net.createConnection(`${sessions}/${fs.readdirSync(sessions).find((name) => name.endsWith(".sock"))}`);
let received = Buffer.alloc(0);
let ended = () => {};
socket.on("data", (bytes) => {
    received = Buffer.concat([received, bytes]);
    while (received.length >= 5 && received.length >= 5 + received.readUInt32BE(1)) {
        const body = received.subarray(5, 5 + received.readUInt32BE(1));
        const message = received[0] === 0 ? JSON.parse(body) : {};
        received = received.subarray(5 + body.length);
        if (message.type === "exec_response") ended(message.exit_code);
        if (message.type === "error") throw new Error(message.message);
    }
});
let id = 0;
const methods = {
    sdk: async (program) => (await machine.exec([program])).exitCode,
    session: (program) =>
        new Promise((resolve) => {
            ended = resolve;
            const body = Buffer.from(JSON.stringify({ type: "exec", id: ++id, cmd: program, argv: [], env: [] }));
            const head = Buffer.alloc(4);
            head.writeUInt32BE(body.length);
            socket.write(Buffer.concat([head, body]));
        }),
};
for await (const line of readline.createInterface({ input: process.stdin })) {
    const started = performance.now();
    const code = await methods[line](process.argv[2]);
    if (code !== 0) throw new Error(`the program ended with exit code ${code}`);
    process.stdout.write(`${Math.round((performance.now() - started) * 1000)}\n`);
}
process.exit(0);
