//! A request as Cedar sees it: entities and context.

use crate::{
    decision::Denial,
    request::{PolicyPrincipal, PolicyRequest, PrincipalKind, RequestedSecret, Resource},
    vocabulary::Vocabulary,
};
use agentd_egress::name::HostName;
use cedar_policy::{Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression, Schema};
use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    str::FromStr,
};

/// The largest number of bytes of a name or path in a request.
const MAX_NAME: usize = 4096;

/// A request to Cedar about one resource.
pub(crate) struct CedarQuestion {
    pub(crate) request: Request,
    pub(crate) entities: Entities,
}

/// Names of Cedar, which are the same for every request.
#[derive(Debug, Clone)]
pub(crate) struct EntityTypes(HashMap<&'static str, EntityTypeName>);

impl EntityTypes {
    /// Returns the names; `None` if one of them is not a name of Cedar.
    pub(crate) fn new() -> Option<Self> {
        let names = ["Action", "Agent", "Group", "Host", "Image", "Path", "Sandbox", "Service", "System", "User"];
        let named = names.into_iter().map(|name| Some((name, EntityTypeName::from_str(name).ok()?)));
        Some(Self(named.collect::<Option<_>>()?))
    }

    fn uid(&self, name: &str, id: &str) -> Result<EntityUid, Denial> {
        let name = self.0.get(name).ok_or_else(|| invalid(format!("entity type {name}: unknown")))?;
        Ok(EntityUid::from_type_name_and_id(name.clone(), EntityId::new(id)))
    }
}

fn invalid(text: impl Into<String>) -> Denial {
    Denial::Invalid(text.into())
}

/// The parts of a request that do not depend on the resource.
pub(crate) struct Facts<'a> {
    types: &'a EntityTypes,
    schema: &'a Schema,
    principal: EntityUid,
    action: EntityUid,
    context: Context,
    entities: Vec<Entity>,
}

impl<'a> Facts<'a> {
    /// Returns the facts of a request.
    ///
    /// # Errors
    /// The capability is unknown, or a part of the request does not have the form that policies expect.
    pub(crate) fn new(
        request: &PolicyRequest,
        vocabulary: &Vocabulary,
        (types, schema): (&'a EntityTypes, &'a Schema),
    ) -> Result<Self, Denial> {
        let entry = vocabulary.entry(&request.capability).ok_or_else(|| Denial::UnknownCapability(request.capability.clone()))?;
        let action = types.uid("Action", &request.capability)?;
        let groups = entry.groups.iter().map(|group| types.uid("Action", group)).collect::<Result<HashSet<_>, _>>()?;
        let mut entities = vec![Entity::new_no_attrs(action.clone(), groups)];
        let principal = principal(types, &request.principal, &mut entities)?;
        let parameters = entry.parameters.value(&request.parameters).map_err(|error| invalid(error.to_string()))?;
        // `datetime` reads milliseconds only.
        let time = request.time.to_string();
        let time = format!("{}Z", time.get(..23).unwrap_or(&time));
        let mut source = vec![("transport".to_owned(), text(&request.source.transport)?)];
        source.extend(request.source.address.map(|address| ("address".to_owned(), ip(address))));
        let source = RestrictedExpression::new_record(source).map_err(|error| invalid(error.to_string()))?;
        let time = RestrictedExpression::new_datetime(time);
        let secrets = secrets(&request.secrets)?;
        let pairs = [("parameters", parameters), ("secrets", secrets), ("time", time), ("source", source)];
        let context = Context::from_pairs(pairs.map(|(name, value)| (name.to_owned(), value)));
        let context = context.map_err(|error| invalid(error.to_string()))?;
        Ok(Self { types, schema, principal, action, context, entities })
    }

    /// Returns the request to Cedar about one resource, or about the installation.
    ///
    /// # Errors
    /// The resource does not have the form that policies expect.
    pub(crate) fn about(&self, resource: Option<&Resource>) -> Result<CedarQuestion, Denial> {
        let mut entities = self.entities.clone();
        let resource = match resource {
            Some(resource) => describe(self.types, resource, &mut entities)?,
            None => {
                let uid = self.types.uid("System", "agentd")?;
                entities.push(Entity::with_uid(uid.clone()));
                uid
            }
        };
        let parts = (self.principal.clone(), self.action.clone(), resource, self.context.clone());
        let request = Request::new(parts.0, parts.1, parts.2, parts.3, Some(self.schema));
        let request = request.map_err(|error| invalid(error.to_string()))?;
        let entities = Entities::from_entities(entities, None).map_err(|error| invalid(error.to_string()))?;
        Ok(CedarQuestion { request, entities })
    }
}

/// Returns the names and the hosts of secrets, as two sets.
fn secrets(requested: &[RequestedSecret]) -> Result<RestrictedExpression, Denial> {
    let names = requested.iter().map(|secret| text(&secret.name)).collect::<Result<Vec<_>, _>>()?;
    let hosts = requested.iter().map(|secret| text(&secret.host)).collect::<Result<Vec<_>, _>>()?;
    let sets = [("names", names), ("hosts", hosts)].map(|(name, texts)| (name.to_owned(), RestrictedExpression::new_set(texts)));
    RestrictedExpression::new_record(sets).map_err(|error| invalid(error.to_string()))
}

/// Adds the principal and the groups. Returns the principal.
fn principal(types: &EntityTypes, of: &PolicyPrincipal, entities: &mut Vec<Entity>) -> Result<EntityUid, Denial> {
    let mut parents = HashSet::new();
    for group in &of.groups {
        parents.insert(types.uid("Group", checked(group)?)?);
    }
    entities.extend(parents.iter().cloned().map(Entity::with_uid));
    if let Some(user) = &of.acts_for {
        if of.kind != PrincipalKind::Agent {
            return Err(invalid("only an agent acts for a user"));
        }
        let user = user_entity(types, user)?;
        parents.insert(user.uid());
        entities.push(user);
    }
    let name = of.kind.entity_type();
    let attributes = [("id", text(&of.id())?), ("name", text(&of.name)?)];
    add(types.uid(name, &of.name)?, &attributes, parents, entities)
}

fn user_entity(types: &EntityTypes, name: &str) -> Result<Entity, Denial> {
    let attributes = [("id", text(&format!("user:{name}"))?), ("name", text(name)?)];
    let attributes = attributes.map(|(name, value)| (name.to_owned(), value)).into();
    Entity::new(types.uid("User", name)?, attributes, HashSet::new()).map_err(|error| invalid(error.to_string()))
}

/// Adds a resource, and what contains it. Returns the resource.
fn describe(types: &EntityTypes, resource: &Resource, entities: &mut Vec<Entity>) -> Result<EntityUid, Denial> {
    match resource {
        Resource::Path { path, write } => {
            let parents = chain("Path", types, above_path(checked(path)?)?, entities)?;
            let attributes = [("path", text(path)?), ("write", RestrictedExpression::new_bool(*write))];
            add(types.uid("Path", path)?, &attributes, parents, entities)
        }
        Resource::Host { name, port } => {
            let address = name.parse::<IpAddr>().ok();
            let above = if address.is_some() { Vec::new() } else { above_host(name)? };
            let parents = chain("Host", types, above, entities)?;
            let mut attributes = vec![("name", text(name)?), ("port", RestrictedExpression::new_long((*port).into()))];
            attributes.extend(address.map(|address| ("address", ip(address))));
            add(types.uid("Host", name)?, &attributes, parents, entities)
        }
        Resource::Image { repository, version } => {
            let above = vec![checked(repository)?.to_owned()];
            let parents = chain("Image", types, above, entities)?;
            let attributes = [("repository", text(repository)?), ("version", text(version)?)];
            let separator = if version.contains(':') { '@' } else { ':' };
            add(types.uid("Image", &format!("{repository}{separator}{version}"))?, &attributes, parents, entities)
        }
        Resource::Sandbox { name, owner } => {
            let attributes = [("name", text(name)?), ("owner", text(owner)?)];
            add(types.uid("Sandbox", name)?, &attributes, HashSet::new(), entities)
        }
    }
}

fn add(
    uid: EntityUid,
    attributes: &[(&str, RestrictedExpression)],
    parents: HashSet<EntityUid>,
    entities: &mut Vec<Entity>,
) -> Result<EntityUid, Denial> {
    let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    entities.push(Entity::new(uid.clone(), attributes, parents).map_err(|error| invalid(error.to_string()))?);
    Ok(uid)
}

/// Adds entities that contain each other, the innermost first. Returns the innermost one.
fn chain(name: &str, types: &EntityTypes, above: Vec<String>, entities: &mut Vec<Entity>) -> Result<HashSet<EntityUid>, Denial> {
    let mut parents = HashSet::new();
    for id in above.iter().rev() {
        let uid = types.uid(name, id)?;
        entities.push(Entity::new_no_attrs(uid.clone(), std::mem::replace(&mut parents, HashSet::from([uid]))));
    }
    Ok(parents)
}

/// Returns the directories above a path, the innermost first.
fn above_path(path: &str) -> Result<Vec<String>, Denial> {
    let rest = path.strip_prefix('/').ok_or_else(|| invalid(format!("path {path:?}: not absolute")))?;
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    if !rest.is_empty() && !rest.split('/').all(plain) {
        return Err(invalid(format!("path {path:?}: has an empty component, '.' or '..'")));
    }
    let ends = path.match_indices('/').map(|(end, _)| if end == 0 { "/" } else { &path[..end] });
    let mut above: Vec<_> = ends.filter(|above| *above != path).map(str::to_owned).collect();
    above.reverse();
    Ok(above)
}

/// Returns the patterns that match a host name, the narrowest first.
fn above_host(name: &str) -> Result<Vec<String>, Denial> {
    let normal = name.parse::<HostName>().map_err(|error| invalid(format!("host {name:?}: {error}")))?;
    if normal.as_str() != name {
        return Err(invalid(format!("host {name:?}: not in normal form, which is {normal}")));
    }
    Ok(name.match_indices('.').map(|(dot, _)| format!("*{}", &name[dot..])).collect())
}

fn ip(address: IpAddr) -> RestrictedExpression {
    RestrictedExpression::new_ip(address.to_string())
}

fn checked(name: &str) -> Result<&str, Denial> {
    if name.is_empty() || name.len() > MAX_NAME || name.contains('\0') {
        return Err(invalid("a name or path is empty, longer than 4096 bytes, or contains a zero byte"));
    }
    Ok(name)
}

fn text(name: &str) -> Result<RestrictedExpression, Denial> {
    Ok(RestrictedExpression::new_string(checked(name)?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_patterns_above_a_resource_are_its_ancestors() {
        assert_eq!(above_path("/").unwrap(), Vec::<String>::new());
        assert_eq!(above_path("/srv/ci").unwrap(), ["/srv", "/"]);
        for wrong in ["", "srv", "/srv/", "//srv", "/srv/../etc", "/srv/./ci"] {
            assert!(above_path(wrong).is_err(), "{wrong}");
        }
        assert_eq!(above_host("files.pypi.example").unwrap(), ["*.pypi.example", "*.example"]);
        for wrong in ["PyPI.example", "pypi.example.", "*.example", "a..b"] {
            assert!(above_host(wrong).is_err(), "{wrong}");
        }
    }
}
