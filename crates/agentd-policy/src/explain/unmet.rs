//! The conditions of a policy, one by one: in words, and whether a request meets them.

use crate::facts::CedarQuestion;
use cedar_policy::{
    Authorizer, Decision, Policy, PolicySet,
    pst::{
        self, ActionConstraint, BinaryOp, Clause, Effect, EntityOrSlot, Expr, PrincipalConstraint, ResourceConstraint,
        StaticPolicy, Template,
    },
};
use std::{fmt::Display, sync::Arc};

/// A condition of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    /// The condition, in words.
    pub(crate) words: String,
    /// True if the request meets the condition.
    pub(crate) is_met: bool,
}

/// Returns the conditions of a policy. A condition is evaluated together with those before it, because it may rely on them.
pub(crate) fn conditions(policy: &Policy, question: &CedarQuestion) -> Vec<Condition> {
    let Ok(tree) = policy.to_pst() else { return Vec::new() };
    let body = tree.body();
    let scope = |principal: &PrincipalConstraint, action: &ActionConstraint, resource: &ResourceConstraint| {
        Template::new("condition", Effect::Permit, principal.clone(), action.clone(), resource.clone())
    };
    let (principal, action, resource) = (&PrincipalConstraint::Any, &ActionConstraint::Any, &ResourceConstraint::Any);
    let parts = [
        (principal_words(&body.principal), scope(&body.principal, action, resource)),
        (action_words(&body.action), scope(principal, &body.action, resource)),
        (resource_words(&body.resource), scope(principal, action, &body.resource)),
    ];
    let parts = parts.into_iter().filter_map(|(words, template)| Some((words?, template)));
    let mut all: Vec<_> = parts.map(|(words, template)| Condition { words, is_met: holds(template, question) }).collect();
    // Clauses may name attributes that only the resources and actions of the scope have.
    if holds(scope(principal, &body.action, &body.resource), question) {
        let mut before = Vec::new();
        for clause in body.clauses().iter().flat_map(split) {
            before.push(clause.clone());
            let template = scope(principal, &body.action, &body.resource).try_with_clauses(before.clone());
            let is_met = template.is_ok_and(|template| holds(template, question));
            all.push(Condition { words: clause_words(&clause), is_met });
            if !is_met {
                break;
            }
        }
    }
    all
}

fn holds(template: Template, question: &CedarQuestion) -> bool {
    let policy = StaticPolicy::try_from(template).map(pst::Policy::Static).ok().and_then(|policy| Policy::from_pst(policy).ok());
    let set = policy.and_then(|policy| PolicySet::from_policies([policy]).ok());
    set.is_some_and(|set| {
        Authorizer::new().is_authorized(&question.request, &set, &question.entities).decision() == Decision::Allow
    })
}

/// Splits `when { a && b }` into `when { a }` and `when { b }`.
fn split(clause: &Clause) -> Vec<Clause> {
    let Clause::When(expression) = clause else { return vec![clause.clone()] };
    let mut parts = Vec::new();
    let mut waiting = vec![expression];
    while let Some(next) = waiting.pop() {
        match &**next {
            Expr::BinaryOp { op: BinaryOp::And, left, right } => waiting.extend([right, left]),
            _ => parts.push(Clause::When(Arc::clone(next))),
        }
    }
    parts
}

fn clause_words(clause: &Clause) -> String {
    match clause {
        Clause::When(expression) => format!("`{expression}` is true"),
        Clause::Unless(expression) => format!("`{expression}` is false"),
    }
}

fn scope_words(name: &str, is: Option<&dyn Display>, within: Option<&EntityOrSlot>) -> String {
    let mut words = format!("the {name} is");
    if let Some(is) = is {
        words.push_str(&format!(" of the type {is}"));
    }
    if let Some(within) = within {
        words.push_str(&format!("{} in {within}", if is.is_some() { ", and" } else { "" }));
    }
    words
}

fn principal_words(constraint: &PrincipalConstraint) -> Option<String> {
    Some(match constraint {
        PrincipalConstraint::Any => return None,
        PrincipalConstraint::Eq(id) => format!("the principal is {id}"),
        PrincipalConstraint::In(id) => scope_words("principal", None, Some(id)),
        PrincipalConstraint::Is(kind) => scope_words("principal", Some(kind), None),
        PrincipalConstraint::IsIn(kind, id) => scope_words("principal", Some(kind), Some(id)),
    })
}

fn resource_words(constraint: &ResourceConstraint) -> Option<String> {
    Some(match constraint {
        ResourceConstraint::Any => return None,
        ResourceConstraint::Eq(id) => format!("the resource is {id}"),
        ResourceConstraint::In(id) => scope_words("resource", None, Some(id)),
        ResourceConstraint::Is(kind) => scope_words("resource", Some(kind), None),
        ResourceConstraint::IsIn(kind, id) => scope_words("resource", Some(kind), Some(id)),
    })
}

fn action_words(constraint: &ActionConstraint) -> Option<String> {
    Some(match constraint {
        ActionConstraint::Any => return None,
        ActionConstraint::Eq(id) => format!("the capability is {}", id.eid),
        ActionConstraint::In(ids) => {
            let ids: Vec<&str> = ids.iter().map(|id| id.eid.as_str()).collect();
            format!("the capability is one of {}, or in such a group", ids.join(", "))
        }
    })
}
