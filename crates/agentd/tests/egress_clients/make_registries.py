"""Creates small registries of packages in the current directory, as files for a server at https://granted.example/files/."""

import base64, gzip, hashlib, io, json, os, tarfile, zipfile

URL = "https://granted.example/files"


def write(path, content):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())


def packed(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content.encode())
            archive.addfile(entry, io.BytesIO(content.encode()))
    return out.getvalue()


def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


# Python (PEP 503, PEP 658).
metadata = "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n"
wheel = zipped({
    "demo.py": "VALUE = 1\n",
    "demo-1.0.dist-info/METADATA": metadata,
    "demo-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "demo-1.0.dist-info/RECORD": "demo.py,,\ndemo-1.0.dist-info/METADATA,,\ndemo-1.0.dist-info/WHEEL,,\ndemo-1.0.dist-info/RECORD,,\n",
})
file = "demo-1.0-py3-none-any.whl"
write(f"wheels/{file}", wheel)
write(f"wheels/{file}.metadata", metadata)
digest = hashlib.sha256(wheel).hexdigest()
link = f'<a href="{URL}/wheels/{file}#sha256={digest}" data-core-metadata="true" data-dist-info-metadata="true">{file}</a>'
write("simple/demo/index.html", f"<!DOCTYPE html><html><body>{link}</body></html>")

# npm.
package = {"name": "demo", "version": "1.0.0", "main": "index.js"}
tarball = packed({"package/package.json": json.dumps(package), "package/index.js": "module.exports = 1\n"})
write("npm-files/demo-1.0.0.tgz", tarball)
integrity = "sha512-" + base64.b64encode(hashlib.sha512(tarball).digest()).decode()
dist = {"tarball": f"{URL}/npm-files/demo-1.0.0.tgz", "integrity": integrity, "shasum": hashlib.sha1(tarball).hexdigest()}
versions = {"1.0.0": {**package, "dist": dist}}
write("npm/demo", json.dumps({"name": "demo", "dist-tags": {"latest": "1.0.0"}, "versions": versions}))

# Cargo: a sparse registry.
manifest = '[package]\nname = "demo"\nversion = "1.0.0"\nedition = "2021"\n'
crate = packed({"demo-1.0.0/Cargo.toml": manifest, "demo-1.0.0/src/lib.rs": "pub const VALUE: u8 = 1;\n"})
write("crates/demo-1.0.0.crate", crate)
entry = {"name": "demo", "vers": "1.0.0", "deps": [], "features": {}, "yanked": False, "cksum": hashlib.sha256(crate).hexdigest()}
write("cargo/de/mo/demo", json.dumps(entry) + "\n")
write("cargo/config.json", json.dumps({"dl": URL + "/crates/{crate}-{version}.crate"}))

# Debian: a flat repository without a signature.
listed = (
    "Package: demo\nVersion: 1.0\nArchitecture: all\nMaintainer: test\nFilename: ./demo.deb\nSize: 0\nDescription: test\n"
    f"SHA256: {hashlib.sha256(b'').hexdigest()}\n\n"
)
lists = {"Packages": listed.encode(), "Packages.gz": gzip.compress(listed.encode())}
sums = "".join(f" {hashlib.sha256(content).hexdigest()} {len(content)} {name}\n" for name, content in lists.items())
for name, content in lists.items():
    write(f"apt/{name}", content)
write("apt/Release", f"Origin: test\nSuite: stable\nDate: Tue, 01 Dec 2026 00:00:00 UTC\nSHA256:\n{sums}")

# Go: a module proxy.
module = "module example.test/demo\n\ngo 1.19\n"
base = "example.test/demo@v1.0.0"
write("go/example.test/demo/@v/list", "v1.0.0\n")
write("go/example.test/demo/@v/v1.0.0.info", json.dumps({"Version": "v1.0.0", "Time": "2026-12-01T00:00:00Z"}))
write("go/example.test/demo/@v/v1.0.0.mod", module)
write("go/example.test/demo/@v/v1.0.0.zip", zipped({f"{base}/go.mod": module, f"{base}/demo.go": "package demo\n"}))
