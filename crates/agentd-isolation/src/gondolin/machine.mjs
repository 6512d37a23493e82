// The host's side of one of Gondolin's machines. It has its own file system, in which it is what there is: standard input is the carrier, a
// socket that the machine gets as a port; on standard output it says in lines of JSON what becomes of the machine.
import child_process from "node:child_process";
import fs from "node:fs";

const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
// What nothing else here catches is the end of the machine, above all that of QEMU.
process.on("uncaughtException", (error) => {
    say({ failed: `${error?.message ?? error}` });
    process.exit(1);
});
const asked = JSON.parse(process.env.AGENTD_MACHINE);

// Two disks: the root of the guest, which all machines share and nobody changes, and an overlay of it, which becomes the root of the sandbox.
// One that was saved is there already. It may be anybody's making: nothing but QEMU, in here, looks into it.
const ROOT = "/agentd/guest/rootfs.ext4";
if (!fs.existsSync(asked.disk)) {
    child_process.execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", ROOT, asked.disk]);
}

// Gondolin starts QEMU, which gets the carrier as descriptor 3, and may then start nothing and become nobody else.
const CARRIER = 3;
const spawn = child_process.spawn;
child_process.spawn = (program, args, options) => {
    const more = [
        "-chardev", `socket,id=agentd,fd=${CARRIER}`,
        "-device", "virtserialport,chardev=agentd,name=agentd,bus=virtio-serial0.0",
        "-drive", `file=${asked.disk},format=qcow2,if=none,id=agentd-disk`,
        // The guest knows it by its serial number.
        "-device", "virtio-blk-pci,drive=agentd-disk,serial=agentd",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ];
    return spawn(program, [...args, ...more], { ...options, stdio: ["ignore", "pipe", "pipe", 0] });
};

const { VM, RealFSProvider } = await import("/agentd/package/node_modules/@earendil-works/gondolin/dist/src/index.js");
const shown = asked.grants ? { mounts: { [asked.grants]: new RealFSProvider(asked.grants) } } : null;
const machine = await VM.create({
    sandbox: {
        imagePath: { kernelPath: "/agentd/guest/vmlinuz-virt", initrdPath: "/tmp/initramfs", rootfsPath: ROOT },
        memory: `${asked.memory_mib}M`,
        cpus: asked.cpus,
        accel: asked.accelerator,
        machineType: "q35",
        // A guest needs no machines of its own, and nested ones are where the kernel has been broken out of. (Emulated, Debian's kernel does
        // not start without.)
        cpu: asked.accelerator === "kvm" ? "host,-svm,-vmx" : "max",
        netEnabled: false,
        append: "console=ttyS0 quiet",
    },
    rootfs: { mode: "readonly" },
    vfs: shown,
    sessionLabel: "agentd",
});
let console = "";
machine.server.on("log", (text) => {
    console = (console + text).slice(-2000);
});
try {
    await machine.start();
} catch (error) {
    say({ failed: `${error?.message ?? error}; the machine said: ${console.trim()}` });
    process.exit(1);
}

// The agent in the guest, whose standard input and output are the carrier. A port can be opened once.
const agent = await machine.exec(["/bin/sh", "-c", "exec 0<>/dev/virtio-ports/agentd 1>&0 && exec /run/agentd-guest /run/root"]);
say({ failed: `the agent in the guest ended: ${agent.signal ?? agent.exitCode} ${agent.stderr.trim()}; the machine said: ${console.trim()}` });
process.exit(1);
