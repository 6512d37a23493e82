// Writes the manifest of a directory of assets, with the build id that Gondolin computes for these assets.
// node manifest.mjs PACKAGE DIRECTORY
import { createHash } from "node:crypto";
import fs from "node:fs";

const [, , gondolin, directory] = process.argv;
const { computeAssetBuildId } = await import(`${gondolin}/dist/src/assets.js`);

async function digest(name) {
    const hash = createHash("sha256");
    for await (const piece of fs.createReadStream(`${directory}/${name}`)) hash.update(piece);
    return hash.digest("hex");
}

const arch = "x86_64";
const assets = { kernel: "vmlinuz-virt", initramfs: "initramfs.cpio.lz4", rootfs: "rootfs.ext4" };
const checksums = {};
for (const [what, name] of Object.entries(assets)) checksums[what] = await digest(name);
const manifest = {
    version: 1,
    buildId: computeAssetBuildId({ checksums, arch }),
    config: { arch, distro: "debian" },
    buildTime: new Date().toISOString(),
    assets,
    checksums,
    runtimeDefaults: { rootfsMode: "memory" },
};
fs.writeFileSync(`${directory}/manifest.json`, JSON.stringify(manifest, null, 2));
