//! Assembly of decisions into BPF (`Documentation/userspace-api/seccomp_filter.rst`).
//!
//! When a filter is installed, the kernel runs it once for every system call number of every architecture, to find the calls that
//! are always allowed (`seccomp_cache_prepare`). The kernel also translates each instruction to machine code. With a linear list
//! of comparisons, as `seccompiler` emits it, this takes 600 µs, more than all other steps of creating a sandbox. So the numbers
//! are grouped into ranges of equal decision, which a binary search selects, and all return instructions are shared. This takes a
//! tenth of that time. `seccompiler` installs the result.
//!
//! The program is built from its end to its start: BPF jumps go forward only, so the target of each jump exists already.

use seccompiler::sock_filter;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The decision about one system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// The same answer for all arguments.
    Always(Answer),
    /// The answer of the first rule whose conditions all hold, or the given answer if there is none.
    Check(Vec<Rule>, Answer),
}

/// The effect of the filter on a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The kernel executes the call.
    Allow,
    /// The kernel skips the call, which returns success.
    Succeed,
    /// The call fails with this errno.
    Fail(i32),
    /// The listener of the filter answers ([`super::Listener`]). Without a listener the call fails with `ENOSYS`
    /// (`seccomp_unotify(2)`).
    Notify,
}

impl Answer {
    /// Returns the filter's return value. With `SECCOMP_RET_ERRNO` and 0 the kernel skips the call, which returns 0
    /// (`seccomp(2)`).
    fn value(self) -> u32 {
        match self {
            Self::Allow => ALLOW,
            Self::Succeed => ERRNO,
            Self::Fail(errno) => ERRNO | errno.unsigned_abs(),
            Self::Notify => libc::SECCOMP_RET_USER_NOTIF,
        }
    }
}

/// Conditions, and the answer if all of them hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub conditions: Vec<Condition>,
    pub answer: Answer,
}

/// Compares `word & mask`, where `word` is a 32-bit half of an argument, with `values`. Holds for one of `values` if `among` is
/// set, or else for any other value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    pub argument: u8,
    /// True for the upper half. The kernel uses only the lower half of `int` arguments, and both halves of pointers.
    pub upper: bool,
    pub mask: u32,
    pub values: Vec<u32>,
    pub among: bool,
}

impl Condition {
    /// Returns the offset of the word in `struct seccomp_data`, on a little-endian machine.
    fn offset(&self) -> u32 {
        ARGUMENTS + 8 * u32::from(self.argument) + 4 * u32::from(self.upper)
    }
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

/// The last number of the calls that every kernel supported by agentd has. The next number is 424, since Linux 5.1.
const LAST_OLD: u32 = if cfg!(target_arch = "aarch64") { 294 } else { 334 };

/// `__X32_SYSCALL_BIT`: this number and all larger ones belong to the x32 table.
const X32: u32 = 0x4000_0000;

/// Returns the answer to an unlisted call. C libraries fall back to an older call on `ENOSYS` only, so a call newer than this
/// filter fails as on a kernel without it. Older calls exist on every kernel and fail with `EPERM`.
fn unlisted(number: u32) -> Answer {
    if number <= LAST_OLD || number >= X32 { Answer::Fail(libc::EPERM) } else { Answer::Fail(libc::ENOSYS) }
}

/// Returns the filter for `decisions`, sorted by number; [`unlisted`] returns the answer for all other numbers. A call through
/// another architecture's entry kills the process.
pub(super) fn assemble(decisions: &[(u32, Decision)]) -> Vec<sock_filter> {
    let mut program = Assembler::default();
    let search = program.search(&ranges(decisions));
    let number = program.load(NUMBER, search);
    let kill = program.value(KILL_PROCESS);
    let own = program.branch(IF_EQUAL, OWN_ARCHITECTURE, number, kill);
    program.load(ARCHITECTURE, own);
    program.0.reverse();
    program.0
}

/// A program from its last instruction to its first, and the shared return instructions by value.
#[derive(Default)]
struct Assembler(Vec<sock_filter>, HashMap<u32, Label>);

/// An instruction, identified by its distance from the end of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Label(usize);

impl Assembler {
    fn push(&mut self, code: u16, k: u32, jt: u8, jf: u8) -> Label {
        self.0.push(sock_filter { code, jt, jf, k });
        Label(self.0.len() - 1)
    }

    /// Returns the number of instructions between the next one and `to`.
    fn distance(&self, to: Label) -> usize {
        self.0.len() - to.0 - 1
    }

    /// Returns a return instruction for `value`, shared with all earlier users within reach.
    fn value(&mut self, value: u32) -> Label {
        match self.1.get(&value) {
            // Leaves room for two conditional jumps with their trampolines.
            Some(place) if self.distance(*place) < usize::from(u8::MAX) - 4 => *place,
            _ => {
                let place = self.push(RETURN, value, 0, 0);
                self.1.insert(value, place);
                place
            }
        }
    }

    fn answer(&mut self, answer: Answer) -> Label {
        self.value(answer.value())
    }

    /// Returns `to`, or a jump to `to` if `to` is beyond the reach of a conditional jump, which is 255 instructions.
    fn near(&mut self, to: Label) -> Label {
        // Leaves room for one instruction: the trampoline of the other branch.
        if self.distance(to) < usize::from(u8::MAX) {
            return to;
        }
        let far = u32::try_from(self.distance(to)).unwrap_or(u32::MAX);
        self.push(JUMP, far, 0, 0)
    }

    fn branch(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        let (yes, no) = (self.near(yes), self.near(no));
        let short = |distance: usize| u8::try_from(distance).unwrap_or(u8::MAX);
        let (jt, jf) = (short(self.distance(yes)), short(self.distance(no)));
        self.push(code, k, jt, jf)
    }

    /// Adds a load, after which execution continues at `next`.
    fn load(&mut self, offset: u32, next: Label) -> Label {
        self.step(LOAD, offset, next)
    }

    fn step(&mut self, code: u16, k: u32, next: Label) -> Label {
        if self.distance(next) > 0 {
            let far = u32::try_from(self.distance(next)).unwrap_or(u32::MAX);
            self.push(JUMP, far, 0, 0);
        }
        self.push(code, k, 0, 0)
    }

    fn search(&mut self, ranges: &[(u32, Decision)]) -> Label {
        match ranges {
            [] => self.answer(Answer::Fail(libc::EPERM)),
            [(_, decision)] => self.decide(decision),
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let above = self.search(high);
                let below = self.search(low);
                self.branch(IF_AT_LEAST, high[0].0, above, below)
            }
        }
    }

    fn decide(&mut self, decision: &Decision) -> Label {
        match decision {
            Decision::Always(answer) => self.answer(*answer),
            Decision::Check(rules, without) => {
                let without = self.answer(*without);
                rules.iter().rev().fold(without, |otherwise, rule| self.check(rule, otherwise))
            }
        }
    }

    /// Adds a rule: returns its answer if all conditions hold, and continues at `otherwise` if one does not.
    fn check(&mut self, rule: &Rule, otherwise: Label) -> Label {
        let mut next = self.answer(rule.answer);
        for condition in rule.conditions.iter().rev() {
            let (hit, miss) = if condition.among { (next, otherwise) } else { (otherwise, next) };
            next = condition.values.iter().rev().fold(miss, |at, value| self.branch(IF_EQUAL, *value, hit, at));
            if condition.mask != u32::MAX {
                next = self.step(AND, condition.mask, next);
            }
            next = self.load(condition.offset(), next);
        }
        next
    }
}

/// Returns ranges of equal decision by their first numbers. Together the ranges cover all numbers.
fn ranges(decisions: &[(u32, Decision)]) -> Vec<(u32, Decision)> {
    let decided: BTreeMap<u32, &Decision> = decisions.iter().map(|(number, decision)| (*number, decision)).collect();
    let mut firsts: BTreeSet<u32> = [0, LAST_OLD + 1, X32].into();
    firsts.extend(decided.keys().flat_map(|number| [*number, number.saturating_add(1)]));
    let mut ranges: Vec<(u32, Decision)> = Vec::new();
    for first in firsts {
        let decision = decided.get(&first).map_or(Decision::Always(unlisted(first)), |decision| (*decision).clone());
        if ranges.last().is_none_or(|(_, last)| *last != decision) {
            ranges.push((first, decision));
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Emulates the kernel: returns the return value of `program` for a call.
    fn run(program: &[sock_filter], number: u32, arguments: [u32; 12]) -> u32 {
        let (mut at, mut a) = (0usize, 0u32);
        loop {
            let i = &program[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { i.jt } else { i.jf });
            match i.code {
                LOAD if i.k == NUMBER => a = number,
                LOAD if i.k == ARCHITECTURE => a = OWN_ARCHITECTURE,
                LOAD => a = arguments[usize::try_from((i.k - ARGUMENTS) / 4).unwrap()],
                AND => a &= i.k,
                JUMP => at += usize::try_from(i.k).unwrap(),
                IF_EQUAL => at += jump(a == i.k),
                IF_AT_LEAST => at += jump(a >= i.k),
                RETURN => return i.k,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    /// Returns the expected return value, computed from the decisions.
    fn expected(decisions: &[(u32, Decision)], number: u32, arguments: [u32; 12]) -> u32 {
        let word = |c: &Condition| arguments[2 * usize::from(c.argument) + usize::from(c.upper)];
        let holds = |c: &Condition| c.values.contains(&(word(c) & c.mask)) == c.among;
        match decisions.iter().find(|(n, _)| *n == number).map(|(_, d)| d) {
            Some(Decision::Always(answer)) => answer.value(),
            Some(Decision::Check(rules, without)) => {
                rules.iter().find(|rule| rule.conditions.iter().all(holds)).map_or(without.value(), |rule| rule.answer.value())
            }
            None => unlisted(number).value(),
        }
    }

    fn condition() -> impl Strategy<Value = Condition> {
        let mask = prop_oneof![Just(u32::MAX), Just(0xf), Just(0x6000)];
        (0..6u8, any::<bool>(), mask, prop::collection::vec(0..4u32, 1..4), any::<bool>())
            .prop_map(|(argument, upper, mask, values, among)| Condition { argument, upper, mask, values, among })
    }

    fn answer() -> impl Strategy<Value = Answer> {
        prop_oneof![
            Just(Answer::Allow),
            Just(Answer::Succeed),
            Just(Answer::Notify),
            prop::sample::select(vec![libc::EPERM, libc::ENOSYS, libc::EAFNOSUPPORT]).prop_map(Answer::Fail),
        ]
    }

    fn decision() -> impl Strategy<Value = Decision> {
        let rule = (prop::collection::vec(condition(), 1..4), answer());
        let rule = rule.prop_map(|(conditions, answer)| Rule { conditions, answer });
        prop_oneof![
            answer().prop_map(Decision::Always),
            (prop::collection::vec(rule, 1..6), answer()).prop_map(|(rules, without)| Decision::Check(rules, without)),
        ]
    }

    proptest! {
        #[test]
        fn assembled_filter_matches_decisions(
            decisions in prop::collection::btree_map(0..500u32, decision(), 0..300),
            numbers in prop::collection::vec(0..520u32, 50),
            arguments in prop::array::uniform12(0..4u32),
        ) {
            let decisions: Vec<_> = decisions.into_iter().collect();
            let program = assemble(&decisions);
            for number in numbers.into_iter().chain([0x4000_0000, u32::MAX]) {
                prop_assert_eq!(run(&program, number, arguments), expected(&decisions, number, arguments));
            }
        }
    }
}
