//! From decisions to BPF (`Documentation/userspace-api/seccomp_filter.rst`).
//!
//! Installing a filter makes the kernel run it once for every system call number of every architecture, to find out which ones it
//! always allows (`seccomp_cache_prepare`), and translate each instruction to machine code. A list of comparisons, as `seccompiler`
//! emits it, costs 600 µs there, more than everything else in the making of a sandbox. So the numbers are cut into ranges of equal
//! decision and searched by halves, and all answers are shared, which costs a tenth of that. `seccompiler` installs the result.
//!
//! The program is built from its end: a jump of BPF goes forward only, so what it goes to is there already.

use seccompiler::sock_filter;
use std::collections::HashMap;

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

/// Whether `word & mask`, of a 32-bit word of an argument, is one of `values`, or is none of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Condition {
    pub argument: u8,
    /// Whether it is the upper word. The kernel looks only at the lower one of `int` arguments; pointers have both.
    pub upper: bool,
    pub mask: u32,
    pub values: Vec<u32>,
    pub among: bool,
}

impl Condition {
    /// Where its word is in `struct seccomp_data`, on a little-endian machine.
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

/// The filter for `decisions`, sorted by number; what is not among them fails with `EPERM`, another architecture's entry kills.
pub(super) fn assemble(decisions: &[(u32, Decision)]) -> Vec<sock_filter> {
    let mut program = Program::default();
    let search = program.search(&ranges(decisions));
    let number = program.load(NUMBER, search);
    let kill = program.answer(KILL_PROCESS);
    let own = program.branch(IF_EQUAL, OWN_ARCHITECTURE, number, kill);
    program.load(ARCHITECTURE, own);
    program.0.reverse();
    program.0
}

/// A program from its last instruction to its first.
#[derive(Default)]
struct Program(Vec<sock_filter>, HashMap<u32, Place>);

/// An instruction, by its distance from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(usize);

impl Program {
    fn push(&mut self, code: u16, k: u32, jt: u8, jf: u8) -> Place {
        self.0.push(sock_filter { code, jt, jf, k });
        Place(self.0.len() - 1)
    }

    /// How many instructions lie between the next one and `to`.
    fn distance(&self, to: Place) -> usize {
        self.0.len() - to.0 - 1
    }

    /// A return, shared by all that can reach it.
    fn answer(&mut self, value: u32) -> Place {
        match self.1.get(&value) {
            // As far as two conditional jumps with their trampolines may be apart.
            Some(place) if self.distance(*place) < usize::from(u8::MAX) - 4 => *place,
            _ => {
                let place = self.push(RETURN, value, 0, 0);
                self.1.insert(value, place);
                place
            }
        }
    }

    fn fail(&mut self, errno: i32) -> Place {
        self.answer(ERRNO | errno.unsigned_abs())
    }

    /// `to`, or a jump to it, as near as a conditional jump must have it: it reaches 255 instructions.
    fn near(&mut self, to: Place) -> Place {
        // One more for the other branch's own trampoline.
        if self.distance(to) < usize::from(u8::MAX) {
            return to;
        }
        let far = u32::try_from(self.distance(to)).unwrap_or(u32::MAX);
        self.push(JUMP, far, 0, 0)
    }

    fn branch(&mut self, code: u16, k: u32, yes: Place, no: Place) -> Place {
        let (yes, no) = (self.near(yes), self.near(no));
        let short = |distance: usize| u8::try_from(distance).unwrap_or(u8::MAX);
        let (jt, jf) = (short(self.distance(yes)), short(self.distance(no)));
        self.push(code, k, jt, jf)
    }

    /// A load, which goes on with the instruction after it, that must be `next`.
    fn load(&mut self, offset: u32, next: Place) -> Place {
        self.step(LOAD, offset, next)
    }

    fn step(&mut self, code: u16, k: u32, next: Place) -> Place {
        if self.distance(next) > 0 {
            let far = u32::try_from(self.distance(next)).unwrap_or(u32::MAX);
            self.push(JUMP, far, 0, 0);
        }
        self.push(code, k, 0, 0)
    }

    fn search(&mut self, ranges: &[(u32, Decision)]) -> Place {
        match ranges {
            [] => self.fail(libc::EPERM),
            [(_, decision)] => self.decide(decision),
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let above = self.search(high);
                let below = self.search(low);
                self.branch(IF_AT_LEAST, high[0].0, above, below)
            }
        }
    }

    fn decide(&mut self, decision: &Decision) -> Place {
        match decision {
            Decision::Allow => self.answer(ALLOW),
            Decision::Fail(errno) => self.fail(*errno),
            Decision::Check(rules) => {
                let refuse = self.fail(libc::EPERM);
                rules.iter().rev().fold(refuse, |otherwise, rule| self.check(rule, otherwise))
            }
        }
    }

    /// Allows when all conditions hold, and goes on with `otherwise` when one does not.
    fn check(&mut self, rule: &[Condition], otherwise: Place) -> Place {
        let mut next = self.answer(ALLOW);
        for condition in rule.iter().rev() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the kernel would do: the return value of `program` for a call.
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

    /// The same, from the decisions themselves.
    fn expected(decisions: &[(u32, Decision)], number: u32, arguments: [u32; 12]) -> u32 {
        let word = |c: &Condition| arguments[2 * usize::from(c.argument) + usize::from(c.upper)];
        let holds = |c: &Condition| c.values.contains(&(word(c) & c.mask)) == c.among;
        match decisions.iter().find(|(n, _)| *n == number).map(|(_, d)| d) {
            Some(Decision::Allow) => ALLOW,
            Some(Decision::Fail(errno)) => ERRNO | errno.unsigned_abs(),
            Some(Decision::Check(rules)) if rules.iter().any(|rule| rule.iter().all(holds)) => ALLOW,
            _ => ERRNO | libc::EPERM.unsigned_abs(),
        }
    }

    fn condition() -> impl Strategy<Value = Condition> {
        let mask = prop_oneof![Just(u32::MAX), Just(0xf), Just(0x6000)];
        (0..6u8, any::<bool>(), mask, prop::collection::vec(0..4u32, 1..4), any::<bool>())
            .prop_map(|(argument, upper, mask, values, among)| Condition { argument, upper, mask, values, among })
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
