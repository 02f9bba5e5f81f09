//! Default values, as they would stand in the file.

use anyhow::{Context, bail};
use syn::punctuated::Punctuated;
use syn::{BinOp, Expr, Lit, Path, Token, Type};

use super::source::{self, Source, Told};

/// What a key is when the file does not name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unset {
    /// This, in TOML.
    Value(String),
    /// Nothing.
    Absent,
    /// A table with defaults of its own.
    Table,
    /// The file has to name it.
    Required,
}

impl Source {
    /// The value of an expression of the kinds that defaults are written in.
    pub(super) fn value(&self, value: &Expr) -> anyhow::Result<Unset> {
        Ok(match value {
            Expr::Lit(lit) => Unset::Value(literal(&lit.lit)?),
            Expr::MethodCall(call) if call.args.is_empty() => self.value(&call.receiver)?,
            Expr::Binary(pair) if matches!(pair.op, BinOp::Shl(_)) => {
                Unset::Value((number(&pair.left)? << number(&pair.right)?).to_string())
            }
            Expr::Path(path) if path.path.is_ident("None") => Unset::Absent,
            Expr::Path(path) => Unset::Value(format!("{:?}", self.variant(&path.path)?)),
            Expr::Macro(list) if list.mac.path.is_ident("vec") => {
                let items = list.mac.parse_body_with(Punctuated::<Expr, Token![,]>::parse_terminated)?;
                let items: Vec<String> =
                    items.iter().map(|item| self.toml(item)).collect::<Result<_, _>>()?;
                Unset::Value(format!("[{}]", items.join(", ")))
            }
            Expr::Call(call) => {
                let Expr::Path(function) = &*call.func else { bail!("a default of an unknown kind") };
                self.called(&function.path, &call.args)?
            }
            _ => bail!("a default of an unknown kind"),
        })
    }

    fn called(&self, path: &Path, arguments: &Punctuated<Expr, Token![,]>) -> anyhow::Result<Unset> {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let first = || arguments.first().context("a default without its argument");
        Ok(match names.as_slice() {
            ["Some"] => self.value(first()?)?,
            [.., "Vec" | "Sources", "new" | "default"] => Unset::Value("[]".into()),
            [.., "BTreeMap", "new" | "default"] => Unset::Value("{}".into()),
            [.., "String" | "PathBuf", "new"] => Unset::Value("\"\"".into()),
            [.., "IpAddr" | "SocketAddr", "from"] => Unset::Value(format!("{:?}", address(first()?)?)),
            [.., _, "default"] => Unset::Table,
            [.., _, _] => Unset::Value(format!("{{ {} = {} }}", self.variant(path)?, self.toml(first()?)?)),
            _ => bail!("a default of an unknown kind"),
        })
    }

    fn toml(&self, value: &Expr) -> anyhow::Result<String> {
        match self.value(value)? {
            Unset::Value(text) => Ok(text),
            other => bail!("{other:?} inside of a default"),
        }
    }

    /// `PageCheck::Warn` as it stands in the file.
    fn variant(&self, path: &Path) -> anyhow::Result<String> {
        let mut names = path.segments.iter().rev().map(|segment| segment.ident.to_string());
        let (variant, name) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
        let told = self.enums.get(&name).map(|item| Told::of(&item.attrs)).transpose()?;
        Ok(told.unwrap_or_default().spelled(&variant))
    }

    /// What a value of that type is where nothing else is said, as `derive(Default)` has it.
    pub(super) fn of_type(&self, ty: &Type) -> anyhow::Result<Unset> {
        let name = source::name(ty).context("a type without a name")?;
        let value = match name.as_str() {
            "Option" => return Ok(Unset::Absent),
            "Vec" | "Sources" => "[]".to_owned(),
            "BTreeMap" => "{}".to_owned(),
            "bool" => "false".to_owned(),
            "String" | "PathBuf" => "\"\"".to_owned(),
            "u16" | "u32" | "u64" | "usize" => "0".to_owned(),
            name => match self.enums.get(name) {
                Some(item) => {
                    let is_default =
                        |v: &&syn::Variant| v.attrs.iter().any(|attr| attr.path().is_ident("default"));
                    let variant = item.variants.iter().find(is_default).context("no default variant")?;
                    format!("{:?}", Told::of(&item.attrs)?.spelled(&variant.ident.to_string()))
                }
                None => return Ok(Unset::Table),
            },
        };
        Ok(Unset::Value(value))
    }
}

fn literal(lit: &Lit) -> anyhow::Result<String> {
    Ok(match lit {
        Lit::Int(number) => number.base10_digits().to_owned(),
        Lit::Float(number) => number.base10_digits().to_owned(),
        Lit::Bool(value) => value.value.to_string(),
        Lit::Str(text) => format!("{:?}", text.value()),
        _ => bail!("a literal of an unknown kind"),
    })
}

fn number(value: &Expr) -> anyhow::Result<u64> {
    match value {
        Expr::Lit(lit) => Ok(literal(&lit.lit)?.parse()?),
        _ => bail!("no number"),
    }
}

/// `[0, 0, 0, 0]`, or with a port `([0, 0, 0, 0], 0)`.
fn address(value: &Expr) -> anyhow::Result<String> {
    match value {
        Expr::Array(bytes) => {
            let bytes: Vec<String> = bytes
                .elems
                .iter()
                .map(|byte| Ok(number(byte)?.to_string()))
                .collect::<anyhow::Result<_>>()?;
            Ok(bytes.join("."))
        }
        Expr::Tuple(pair) if pair.elems.len() == 2 => {
            Ok(format!("{}:{}", address(&pair.elems[0])?, number(&pair.elems[1])?))
        }
        _ => bail!("no address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        let mut source = Source::default();
        let text = r#"#[serde(rename_all = "kebab-case")] enum Delete { LeaveToSeed, Part(f64) }"#;
        source.add(text).unwrap();
        source
    }

    #[test]
    fn defaults_are_shown_as_they_would_be_written() {
        for (code, wanted) in [
            ("3_600", "3600"),
            ("32 << 20", "33554432"),
            ("5.0", "5.0"),
            ("true", "true"),
            ("\"/var/lib/x\".into()", "\"/var/lib/x\""),
            ("Vec::new()", "[]"),
            ("vec![\"a\".into(), \"b\".to_owned()]", "[\"a\", \"b\"]"),
            ("Some(70.0)", "70.0"),
            ("BTreeMap::new()", "{}"),
            ("PathBuf::new()", "\"\""),
            ("Delete::LeaveToSeed", "\"leave-to-seed\""),
            ("Delete::Part(20.0)", "{ part = 20.0 }"),
            ("bus::Replicas::Auto", "\"auto\""),
            ("SocketAddr::from(([0, 0, 0, 0], 0))", "\"0.0.0.0:0\""),
            ("IpAddr::from([127, 0, 0, 1])", "\"127.0.0.1\""),
        ] {
            let value = source().value(&syn::parse_str(code).unwrap());
            assert_eq!(
                value.unwrap_or_else(|e| panic!("{code}: {e}")),
                Unset::Value(wanted.into()),
                "{code}"
            );
        }
        let of = |code: &str| source().value(&syn::parse_str(code).unwrap());
        assert_eq!(of("None").unwrap(), Unset::Absent);
        assert_eq!(of("Limits::default()").unwrap(), Unset::Table);
        assert!(of("a + b").is_err() && of("{ 7 }").is_err());
    }
}
