// The host's side of one Gondolin machine. This program runs in an agentd sandbox with a private file system. Standard input is
// the transport, a socket that is connected to a port of the machine. Standard output carries the events of the machine, as JSON
// lines.
import child_process from "node:child_process";
import fs from "node:fs";

const send = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);
// An uncaught exception ends the machine. The usual cause is the exit of QEMU.
process.on("uncaughtException", (error) => {
    send({ failed: `${error?.message ?? error}` });
    process.exit(1);
});
const plan = JSON.parse(process.env.AGENTD_MACHINE);

// The end of the guest's console output. It is sent when the start takes too long, for the error. The limit counts from the start
// of this process, as in the library.
let console = "";
setTimeout(() => send({ console }), Math.max(0, process.env.AGENTD_START_LIMIT_MS - process.uptime() * 1000)).unref();

// Two disks: the root of the guest, which all machines share read-only, and an overlay of it, which becomes the root of the
// sandbox. When a machine is restored, a saved overlay exists already. A guest controls its content, so only QEMU, in this
// sandbox, parses it.
const ROOT = "/agentd/guest/rootfs.ext4";
if (!fs.existsSync(plan.disk)) {
    child_process.execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", ROOT, plan.disk]);
}

// Gondolin starts QEMU through this function. QEMU receives the transport as descriptor 3. With `-sandbox`, QEMU can neither
// start programs nor change its user.
const TRANSPORT = 3;
const spawn = child_process.spawn;
child_process.spawn = (program, args, options) => {
    const extra = [
        "-chardev", `socket,id=agentd,fd=${TRANSPORT}`,
        "-device", "virtserialport,chardev=agentd,name=agentd,bus=virtio-serial0.0",
        "-drive", `file=${plan.disk},format=qcow2,if=none,id=agentd-disk`,
        // The guest finds this disk by its serial number.
        "-device", "virtio-blk-pci,drive=agentd-disk,serial=agentd",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ];
    return spawn(program, [...args, ...extra], { ...options, stdio: ["ignore", "pipe", "pipe", 0] });
};

const { VM, RealFSProvider } = await import("/agentd/package/node_modules/@earendil-works/gondolin/dist/src/index.js");
const vfs = plan.grants ? { mounts: { [plan.grants]: new RealFSProvider(plan.grants) } } : null;
const machine = await VM.create({
    sandbox: {
        imagePath: { kernelPath: "/agentd/guest/vmlinuz-virt", initrdPath: "/tmp/initramfs", rootfsPath: ROOT },
        memory: `${plan.memory_mib}M`,
        cpus: plan.cpus,
        accel: plan.accelerator,
        machineType: "q35",
        // With KVM, hide virtualisation from the guest: nested virtualisation has had escapes into the host's kernel. With
        // emulation, Debian's kernel does not boot on a processor without these features.
        cpu: plan.accelerator === "kvm" ? "host,-svm,-vmx" : "max",
        netEnabled: false,
        // `panic=-1`: a panic ends the machine, and the last console output is reported. `no_timer_check`: on a busy host, QEMU
        // delivers the timer interrupt late, and the kernel's check of that interrupt panics.
        append: "console=ttyS0 quiet panic=-1 no_timer_check",
    },
    rootfs: { mode: "readonly" },
    vfs,
    sessionLabel: "agentd",
});
machine.server.on("log", (text) => {
    console = (console + text).slice(-2000);
});
const fail = (why) => {
    send({ failed: `${why}; last console output: ${console.trim()}` });
    process.exit(1);
};
try {
    await machine.start();
} catch (error) {
    fail(error?.message ?? error);
}

// Starts the agent in the guest. Its standard input and output are the transport, opened once for both: a port can be open only
// once.
const agent = await machine.exec([
    "/bin/sh", "-c",
    "exec 0<>/dev/virtio-ports/agentd 1>&0 && AGENTD_ROLE=agentd-guest exec /run/agentd-guest /run/root",
]);
fail(`the guest agent exited: ${agent.signal ?? agent.exitCode} ${agent.stderr.trim()}`);
