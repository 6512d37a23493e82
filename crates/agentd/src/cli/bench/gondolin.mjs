// Gondolin alone, as a peer: a machine in which a program is executed by its session socket or by its SDK, once for each line of standard
// input that says which. Answers with the time it took, in microseconds.
import fs from "node:fs";
import net from "node:net";
import readline from "node:readline";

const { VM } = await import("/agentd/package/node_modules/@earendil-works/gondolin/dist/src/index.js");
const machine = await VM.create({
    sandbox: { imagePath: "/agentd/guest", memory: "1024M", netEnabled: false, append: "console=ttyS0 quiet" },
    rootfs: { mode: "memory" },
    vfs: null,
});
// Without files of the host's it does not wait for the guest by itself.
await machine.start();
await machine.exec([process.argv[2]]);

// Frames: a type, a length, and for type 0 a message in JSON.
const sessions = process.env.GONDOLIN_SESSIONS_DIR;
const socket = net.createConnection(`${sessions}/${fs.readdirSync(sessions).find((name) => name.endsWith(".sock"))}`);
let come = Buffer.alloc(0);
let ended = () => {};
socket.on("data", (bytes) => {
    come = Buffer.concat([come, bytes]);
    while (come.length >= 5 && come.length >= 5 + come.readUInt32BE(1)) {
        const body = come.subarray(5, 5 + come.readUInt32BE(1));
        const message = come[0] === 0 ? JSON.parse(body) : {};
        come = come.subarray(5 + body.length);
        if (message.type === "exec_response") ended(message.exit_code);
        if (message.type === "error") throw new Error(message.message);
    }
});
let id = 0;
const ways = {
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
    const begun = performance.now();
    const code = await ways[line](process.argv[2]);
    if (code !== 0) throw new Error(`it ended with ${code}`);
    process.stdout.write(`${Math.round((performance.now() - begun) * 1000)}\n`);
}
process.exit(0);
