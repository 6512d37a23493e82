//! The schema of an intent that has ended, for the OpenAPI document.

use std::borrow::Cow;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{AdditionalProperties, Array, Object, ObjectBuilder, SchemaType, Type},
    },
};

/// The object of an intent that has ended. `docs/json.md` describes all members.
pub(super) struct IntentObject;

impl PartialSchema for IntentObject {
    fn schema() -> RefOr<Schema> {
        let text = |description: &str| ObjectBuilder::new().schema_type(Type::String).description(Some(description));
        let object = |description: &str| {
            ObjectBuilder::new()
                .schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
                .description(Some(description))
                .additional_properties(Some(AdditionalProperties::FreeForm(true)))
        };
        let notices = Array::new(Object::with_type(Type::String));
        let intent = ObjectBuilder::new()
            .schema_type(Type::Object)
            .description(Some("An intent that has ended"))
            .property("intent", text("The identifier of the intent"))
            .property("capability", text("The capability"))
            .property("status", text("`finished`, `failed` or `interrupted`"))
            .property("duplicate", Object::with_type(Type::Boolean))
            .property("reason", text("How the execution ended"))
            .property(
                "result",
                ObjectBuilder::new().schema_type(SchemaType::AnyValue).description(Some("The result of the capability")),
            )
            .property("error", object("The error of the capability"))
            .property("notices", notices)
            .property("receipt", object("The signed receipt, as a DSSE envelope"))
            .additional_properties(Some(AdditionalProperties::FreeForm(true)));
        let required = ["intent", "capability", "status", "duplicate", "notices"];
        required.into_iter().fold(intent, ObjectBuilder::required).build().into()
    }
}

impl ToSchema for IntentObject {
    fn name() -> Cow<'static, str> {
        "Intent".into()
    }
}
