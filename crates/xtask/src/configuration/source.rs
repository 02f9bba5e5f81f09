//! Structs and enums of a configuration as their source files have them: doc comments, serde's attributes, defaults.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use syn::{
    Attribute, Block, Expr, ExprLit, ImplItem, Item, ItemEnum, ItemImpl, ItemStruct, Lit, Meta, Stmt, Type,
};

/// What the source files of one program say.
#[derive(Default)]
pub(super) struct Source {
    pub(super) structs: BTreeMap<String, ItemStruct>,
    pub(super) enums: BTreeMap<String, ItemEnum>,
    /// `impl Default` of a struct: each field's value.
    pub(super) defaults: BTreeMap<String, BTreeMap<String, Expr>>,
    /// Functions without arguments, for `serde(default = "…")`.
    pub(super) functions: BTreeMap<String, Expr>,
}

impl Source {
    /// Reads these files below `root`.
    pub(super) fn read(root: &Path, files: &[&str]) -> anyhow::Result<Self> {
        let mut source = Self::default();
        for file in files {
            let text = fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {file}"))?;
            source.add(&text).with_context(|| format!("cannot understand {file}"))?;
        }
        Ok(source)
    }

    /// Adds what one file says.
    pub(super) fn add(&mut self, text: &str) -> anyhow::Result<()> {
        for item in syn::parse_file(text)?.items {
            match item {
                Item::Struct(item) => drop(self.structs.insert(item.ident.to_string(), item)),
                Item::Enum(item) => drop(self.enums.insert(item.ident.to_string(), item)),
                Item::Impl(item) => self.add_default(item),
                Item::Fn(item) if item.sig.inputs.is_empty() => {
                    if let Some(value) = tail(*item.block) {
                        self.functions.insert(item.sig.ident.to_string(), value);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn add_default(&mut self, item: ItemImpl) {
        let is_default = item.trait_.is_some_and(|(_, path, _)| path.is_ident("Default"));
        let (true, Some(name)) = (is_default, name(&item.self_ty)) else { return };
        for function in item.items {
            if let ImplItem::Fn(function) = function
                && let Some(Expr::Struct(value)) = tail(function.block)
            {
                let fields = value.fields.into_iter().filter_map(|field| match field.member {
                    syn::Member::Named(name) => Some((name.to_string(), field.expr)),
                    syn::Member::Unnamed(_) => None,
                });
                self.defaults.insert(name.clone(), fields.collect());
            }
        }
    }
}

/// What a block gives.
fn tail(block: Block) -> Option<Expr> {
    match block.stmts.into_iter().next_back()? {
        Stmt::Expr(value, None) => Some(value),
        _ => None,
    }
}

/// The last name of a type's path, without what stands in its brackets.
pub(super) fn name(ty: &Type) -> Option<String> {
    let Type::Path(path) = ty else { return None };
    Some(path.path.segments.last()?.ident.to_string())
}

/// The types in the brackets behind a type's name.
pub(super) fn arguments(ty: &Type) -> Vec<&Type> {
    let Type::Path(path) = ty else { return Vec::new() };
    let Some(last) = path.path.segments.last() else { return Vec::new() };
    let syn::PathArguments::AngleBracketed(arguments) = &last.arguments else { return Vec::new() };
    let types = arguments.args.iter().filter_map(|argument| match argument {
        syn::GenericArgument::Type(ty) => Some(ty),
        _ => None,
    });
    types.collect()
}

/// A doc comment in one line.
pub(super) fn docs(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => text(&pair.value),
        _ => None,
    });
    lines.map(|line| line.trim().to_owned()).collect::<Vec<_>>().join(" ").trim().to_owned()
}

fn text(value: &Expr) -> Option<String> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
        _ => None,
    }
}

/// What serde was told of a struct, an enum or a field.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// A missing value is a default: the type's own, or what the function gives.
    pub(super) default: Option<Option<String>>,
    /// It is no part of the file.
    pub(super) skip: bool,
    pub(super) rename_all: Option<String>,
    /// The key by which the variants of an enum are told apart.
    pub(super) tag: Option<String>,
}

impl Told {
    pub(super) fn of(attributes: &[Attribute]) -> anyhow::Result<Self> {
        let mut told = Self::default();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
            attribute.parse_nested_meta(|meta| {
                let value = match meta.value() {
                    Ok(value) => text(&value.parse::<Expr>()?),
                    Err(_) => None,
                };
                match meta.path.get_ident().map(ToString::to_string).as_deref() {
                    Some("default") => told.default = Some(value),
                    Some("skip") => told.skip = true,
                    Some("rename_all") => told.rename_all = value,
                    Some("tag") => told.tag = value,
                    _ => {}
                }
                Ok(())
            })?;
        }
        Ok(told)
    }

    /// A variant as it stands in the file.
    pub(super) fn spelled(&self, variant: &str) -> String {
        let between = if self.rename_all.as_deref() == Some("kebab-case") { '-' } else { '_' };
        let mut spelled = String::new();
        for (index, c) in variant.chars().enumerate() {
            if c.is_ascii_uppercase() && index > 0 {
                spelled.push(between);
            }
            spelled.push(c.to_ascii_lowercase());
        }
        spelled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        /// How to reach
        /// it.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, default, rename_all = "kebab-case", tag = "kind")]
        pub struct Bus { #[serde(default = "ten", skip_serializing_if = "x::y")] pub every_s: Option<Vec<u64>> }
        impl Default for Bus { fn default() -> Self { Self { every_s: None } } }
        fn ten() -> u64 { 10 }
    "#;

    #[test]
    fn docs_attributes_and_defaults_are_read() {
        let mut source = Source::default();
        source.add(TEXT).unwrap();
        let bus = &source.structs["Bus"];
        assert_eq!(docs(&bus.attrs), "How to reach it.");
        let told = Told::of(&bus.attrs).unwrap();
        assert_eq!((told.default.clone(), told.tag.as_deref()), (Some(None), Some("kind")));
        assert_eq!(told.spelled("LvmThin"), "lvm-thin");
        let field = bus.fields.iter().next().unwrap();
        assert_eq!(Told::of(&field.attrs).unwrap().default, Some(Some("ten".to_owned())));
        assert_eq!(name(&field.ty).as_deref(), Some("Option"));
        assert_eq!(name(arguments(arguments(&field.ty)[0])[0]).as_deref(), Some("u64"));
        assert!(source.defaults["Bus"].contains_key("every_s") && source.functions.contains_key("ten"));
        assert!(source.add("struct {").is_err());
    }
}
