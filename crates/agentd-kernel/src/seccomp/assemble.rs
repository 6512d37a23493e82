//! From decisions to BPF (`Documentation/userspace-api/seccomp_filter.rst`).
//!
//! Installing a filter makes the kernel run it once for every system call number of every architecture, to find out which ones it
//! always allows (`seccomp_cache_prepare`). A list of comparisons, as `seccompiler` emits it, costs 600 µs there, more than
//! everything else in the making of a sandbox. So the numbers are cut into ranges of equal decision and searched by halves, which
//! costs a tenth of that. `seccompiler` installs the result.

use seccompiler::sock_filter;

/// What becomes of one system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is let through.
    Allow,
    /// It fails with this errno.
    Fail(i32),
    /// It is let through when all conditions of any one rule hold; else it fails with `EPERM`.
    Check(Vec<Rule>),
}

/// Conditions that hold together.
pub(super) type Rule = Vec<Condition>;

/// `(argument & mask) == value`, or `!=`. Only the low 32 bits of arguments are looked at, as the kernel does for the calls in
/// question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    pub argument: u8,
    pub mask: u32,
    pub value: u32,
    pub equal: bool,
}

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_AARCH64` (`linux/audit.h`).
const OWN_ARCHITECTURE: u32 = if cfg!(target_arch = "aarch64") { 0xc000_00b7 } else { 0xc000_003e };

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const KILL_PROCESS: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;
const ALLOW: u32 = 0x7fff_0000;

fn instruction(code: u16, k: u32, jt: usize, jf: usize) -> sock_filter {
    let short = |offset: usize| u8::try_from(offset).unwrap_or(u8::MAX);
    sock_filter { code, jt: short(jt), jf: short(jf), k }
}

fn answer(value: u32) -> sock_filter {
    instruction(RETURN, value, 0, 0)
}

fn fail(errno: i32) -> sock_filter {
    answer(ERRNO | errno.unsigned_abs())
}

/// The filter for `decisions`, sorted by number; what is not among them fails with `EPERM`, another architecture's entry kills.
pub(super) fn assemble(decisions: &[(u32, Decision)]) -> Vec<sock_filter> {
    let mut program = vec![
        instruction(LOAD, ARCHITECTURE, 0, 0),
        instruction(IF_EQUAL, OWN_ARCHITECTURE, 1, 0),
        answer(KILL_PROCESS),
        instruction(LOAD, NUMBER, 0, 0),
    ];
    program.extend(search(&ranges(decisions)));
    program
}

/// Ranges of equal decision by their first numbers; together they cover all numbers.
fn ranges(decisions: &[(u32, Decision)]) -> Vec<(u32, Decision)> {
    let refuse = Decision::Fail(libc::EPERM);
    let mut ranges: Vec<(u32, Decision)> = vec![(0, refuse.clone())];
    let mut put = |from: u32, decision: Decision| match ranges.last_mut() {
        Some((start, last)) if *start == from => *last = decision,
        Some((_, last)) if *last == decision => {}
        _ => ranges.push((from, decision)),
    };
    for (index, (number, decision)) in decisions.iter().enumerate() {
        put(*number, decision.clone());
        if decisions.get(index + 1).is_none_or(|(next, _)| *next != number + 1) {
            put(number + 1, refuse.clone());
        }
    }
    ranges
}

fn search(ranges: &[(u32, Decision)]) -> Vec<sock_filter> {
    match ranges {
        [] => vec![fail(libc::EPERM)],
        [(_, decision)] => leaf(decision),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let (middle, below, above) = (high[0].0, search(low), search(high));
            let mut code = if below.len() <= usize::from(u8::MAX) {
                vec![instruction(IF_AT_LEAST, middle, below.len(), 0)]
            } else {
                // A conditional jump reaches 255 instructions; this one goes by an unconditional one.
                let far = u32::try_from(below.len()).unwrap_or(u32::MAX);
                vec![instruction(IF_AT_LEAST, middle, 0, 1), instruction(JUMP, far, 0, 0)]
            };
            code.extend(below);
            code.extend(above);
            code
        }
    }
}

fn leaf(decision: &Decision) -> Vec<sock_filter> {
    match decision {
        Decision::Allow => vec![answer(ALLOW)],
        Decision::Fail(errno) => vec![fail(*errno)],
        Decision::Check(rules) => {
            let mut code: Vec<sock_filter> = rules.iter().flat_map(|rule| check(rule)).collect();
            code.push(fail(libc::EPERM));
            code
        }
    }
}

/// Allows when all conditions hold, and falls through to what follows when one does not.
fn check(rule: &[Condition]) -> Vec<sock_filter> {
    let mut code = vec![answer(ALLOW)];
    for condition in rule.iter().rev() {
        let miss = code.len();
        let (jt, jf) = if condition.equal { (0, miss) } else { (miss, 0) };
        let mut test = vec![instruction(LOAD, ARGUMENTS + 8 * u32::from(condition.argument), 0, 0)];
        if condition.mask != u32::MAX {
            test.push(instruction(AND, condition.mask, 0, 0));
        }
        test.push(instruction(IF_EQUAL, condition.value, jt, jf));
        test.extend(code);
        code = test;
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the kernel would do: the return value of `program` for a call.
    fn run(program: &[sock_filter], number: u32, arguments: [u32; 6]) -> u32 {
        let (mut at, mut a) = (0usize, 0u32);
        loop {
            let i = &program[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { i.jt } else { i.jf });
            match i.code {
                LOAD if i.k == NUMBER => a = number,
                LOAD if i.k == ARCHITECTURE => a = OWN_ARCHITECTURE,
                LOAD => a = arguments[usize::try_from((i.k - ARGUMENTS) / 8).unwrap()],
                AND => a &= i.k,
                JUMP => at += usize::try_from(i.k).unwrap(),
                IF_EQUAL => at += jump(a == i.k),
                IF_AT_LEAST => at += jump(a >= i.k),
                RETURN => return i.k,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    /// The same, from the decisions themselves.
    fn expected(decisions: &[(u32, Decision)], number: u32, arguments: [u32; 6]) -> u32 {
        let holds = |c: &Condition| ((arguments[usize::from(c.argument)] & c.mask) == c.value) == c.equal;
        match decisions.iter().find(|(n, _)| *n == number).map(|(_, d)| d) {
            Some(Decision::Allow) => ALLOW,
            Some(Decision::Fail(errno)) => ERRNO | errno.unsigned_abs(),
            Some(Decision::Check(rules)) if rules.iter().any(|rule| rule.iter().all(holds)) => ALLOW,
            _ => ERRNO | libc::EPERM.unsigned_abs(),
        }
    }

    fn condition() -> impl Strategy<Value = Condition> {
        (0..6u8, prop_oneof![Just(u32::MAX), Just(0xf), Just(0x6000)], 0..4u32, any::<bool>())
            .prop_map(|(argument, mask, value, equal)| Condition { argument, mask, value: value & mask, equal })
    }

    fn decision() -> impl Strategy<Value = Decision> {
        prop_oneof![
            Just(Decision::Allow),
            Just(Decision::Fail(libc::ENOSYS)),
            prop::collection::vec(prop::collection::vec(condition(), 1..4), 1..6).prop_map(Decision::Check),
        ]
    }

    proptest! {
        #[test]
        fn the_program_decides_as_it_was_told(
            decisions in prop::collection::btree_map(0..500u32, decision(), 0..300),
            numbers in prop::collection::vec(0..520u32, 50),
            arguments in prop::array::uniform6(0..4u32),
        ) {
            let decisions: Vec<_> = decisions.into_iter().collect();
            let program = assemble(&decisions);
            for number in numbers.into_iter().chain([0x4000_0000, u32::MAX]) {
                prop_assert_eq!(run(&program, number, arguments), expected(&decisions, number, arguments));
            }
        }
    }
}
