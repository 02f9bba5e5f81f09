//! The tables of a configuration, key by key.

use anyhow::{Context, bail};
use syn::{Fields, ItemEnum, Type};

use super::source::{self, Source, Told, docs};
use super::value::Unset;

/// One table of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    /// Its name with dots: `snapshot.guardian`; what the person names stands as `<name>`.
    pub(super) path: String,
    /// How it is chosen, where there are several to choose from.
    pub(super) choice: Option<String>,
    /// One of several, of which a file has one.
    pub(super) is_one_of: bool,
    /// What it is for.
    pub(super) about: String,
    pub(super) keys: Vec<Key>,
}

impl Table {
    pub(super) fn at(path: &str, about: &str) -> Self {
        Self {
            path: path.to_owned(),
            choice: None,
            is_one_of: false,
            about: about.to_owned(),
            keys: Vec::new(),
        }
    }
}

/// One key of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) name: String,
    /// What it takes.
    pub(super) kind: String,
    pub(super) default: Unset,
    pub(super) about: String,
}

/// What types without a definition of their own are called, and several of them.
const WORDS: [(&str, &str, &str); 14] = [
    ("AgentId", "host's name", "hosts' names"),
    ("IpAddr", "address", "addresses"),
    ("Network", "network", "networks"),
    ("PathBuf", "path", "paths"),
    ("Replicas", "`\"auto\"`, `1`, `3`, `5`", ""),
    ("SocketAddr", "address:port", ""),
    ("Sources", "list of servers", ""),
    ("String", "text", "texts"),
    ("bool", "true, false", ""),
    ("f64", "number", "numbers"),
    ("u16", "whole number", "whole numbers"),
    ("u32", "whole number", "whole numbers"),
    ("u64", "whole number", "whole numbers"),
    ("usize", "whole number", "whole numbers"),
];

/// Ends of keys that name a unit; longer ones first.
const UNITS: [(&str, &str); 8] = [
    ("_bytes_per_s", "bytes per second"),
    ("_bytes", "bytes"),
    ("_seconds", "seconds"),
    ("_ms", "milliseconds"),
    ("_s", "seconds"),
    ("_mib", "MiB"),
    ("_percent", "percent"),
    ("_days", "days"),
];

/// Every table below the struct `root`, in the order of its fields, those inside a table behind it.
pub(super) fn tables(source: &Source, root: &str) -> anyhow::Result<Vec<Table>> {
    let mut walk = Walk { source, tables: Vec::new() };
    walk.fields(root, Table::at("", ""))?;
    walk.tables.retain(|table| !table.keys.is_empty());
    Ok(walk.tables)
}

struct Walk<'a> {
    source: &'a Source,
    tables: Vec<Table>,
}

impl Walk<'_> {
    /// The struct `name` as this table.
    fn fields(&mut self, name: &str, table: Table) -> anyhow::Result<()> {
        let path = table.path.clone();
        let item = self.source.structs.get(name).with_context(|| format!("no struct {name} for {path}"))?;
        let all_default = Told::of(&item.attrs)?.default.is_some();
        let index = self.tables.len();
        self.tables.push(table);
        for field in &item.fields {
            let told = Told::of(&field.attrs)?;
            if told.skip {
                continue;
            }
            let key = field.ident.as_ref().context("a field without a name")?.to_string();
            let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let default = self.default(name, &key, &field.ty, all_default, &told);
            let default = default.with_context(|| format!("{at}, field {key} of {name}"))?;
            let about = docs(&field.attrs);
            if about.is_empty() {
                bail!("{at}: field {key} of {name} has no doc comment");
            }
            self.field(index, Key { name: key, kind: String::new(), default, about }, &at, &field.ty)?;
        }
        Ok(())
    }

    fn default(&self, of: &str, key: &str, ty: &Type, all: bool, told: &Told) -> anyhow::Result<Unset> {
        match &told.default {
            Some(Some(function)) => {
                let value =
                    self.source.functions.get(function).context("its default function is not there")?;
                self.source.value(value)
            }
            Some(None) => self.source.of_type(ty),
            None if all => match self.source.defaults.get(of) {
                Some(fields) => self.source.value(fields.get(key).context("its Default leaves it out")?),
                None => self.source.of_type(ty),
            },
            None if source::name(ty).as_deref() == Some("Option") => Ok(Unset::Absent),
            None => Ok(Unset::Required),
        }
    }

    /// A field: a line of the table `index`, or tables of its own.
    fn field(&mut self, index: usize, mut key: Key, at: &str, ty: &Type) -> anyhow::Result<()> {
        let name = source::name(ty).unwrap_or_default();
        let inner = source::arguments(ty);
        match (name.as_str(), inner.as_slice()) {
            ("Option", [inner]) => return self.field(index, key, at, inner),
            ("Vec", [inner]) if self.is_struct(inner) => {
                return self.inside(inner, &format!("{at}[]"), &key.about);
            }
            ("BTreeMap", [_, inner]) if self.is_struct(inner) => {
                return self.inside(inner, &format!("{at}.<name>"), &key.about);
            }
            _ if self.is_struct(ty) => return self.inside(ty, at, &key.about),
            _ => {}
        }
        if let Some(item) = self.source.enums.get(&name)
            && item.variants.iter().any(|variant| !matches!(variant.fields, Fields::Unit))
        {
            return self.variants(index, key, at, item);
        }
        let (kind, meanings) = self.kind(ty).with_context(|| at.to_owned())?;
        let unit = UNITS.iter().find(|(end, _)| key.name.ends_with(end)).filter(|_| kind.ends_with("number"));
        key.kind = unit.map_or_else(|| kind.clone(), |(_, unit)| format!("{kind}, {unit}"));
        key.about = [key.about.as_str(), &meanings].join(" ").trim().to_owned();
        self.tables[index].keys.push(key);
        Ok(())
    }

    fn is_struct(&self, ty: &Type) -> bool {
        source::name(ty).is_some_and(|name| {
            self.source.structs.contains_key(&name) && !WORDS.iter().any(|(word, ..)| *word == name)
        })
    }

    fn inside(&mut self, ty: &Type, at: &str, about: &str) -> anyhow::Result<()> {
        self.fields(&source::name(ty).unwrap_or_default(), Table::at(at, about))
    }

    /// What a key takes, and what the values of a list of words mean.
    fn kind(&self, ty: &Type) -> anyhow::Result<(String, String)> {
        if let Type::Array(array) = ty {
            return Ok((format!("list of two {}", self.several(&array.elem)?.0), String::new()));
        }
        let name = source::name(ty).context("a type without a name")?;
        if let Some((_, word, _)) = WORDS.iter().find(|(known, ..)| *known == name) {
            return Ok(((*word).to_owned(), String::new()));
        }
        if let Some(item) = self.source.enums.get(&name) {
            let told = Told::of(&item.attrs)?;
            let of =
                |variant: &syn::Variant| (told.spelled(&variant.ident.to_string()), docs(&variant.attrs));
            let variants: Vec<(String, String)> = item.variants.iter().map(of).collect();
            let words: Vec<String> = variants.iter().map(|(word, _)| format!("`\"{word}\"`")).collect();
            let meanings = variants.iter().map(|(word, about)| format!("`{word}`: {about}"));
            return Ok((words.join(", "), meanings.collect::<Vec<_>>().join(" ")));
        }
        match (name.as_str(), source::arguments(ty).as_slice()) {
            ("Vec", [inner]) => {
                let (kind, meanings) = self.several(inner)?;
                Ok((format!("list of {kind}"), meanings))
            }
            ("BTreeMap", [_, inner]) => Ok((format!("table of {}", self.several(inner)?.0), String::new())),
            _ => bail!("a type that the page has no word for: {name}"),
        }
    }

    fn several(&self, ty: &Type) -> anyhow::Result<(String, String)> {
        let name = source::name(ty).unwrap_or_default();
        match WORDS.iter().find(|(known, _, several)| *known == name && !several.is_empty()) {
            Some((.., several)) => Ok(((*several).to_owned(), String::new())),
            None => self.kind(ty),
        }
    }

    /// An enum whose variants hold something: words, values with a name, and tables.
    fn variants(&mut self, index: usize, mut key: Key, at: &str, item: &ItemEnum) -> anyhow::Result<()> {
        let told = Told::of(&item.attrs)?;
        if let Some(tag) = &told.tag {
            return self.tagged(&key.about, at, item, tag);
        }
        let (mut kinds, mut below) = (Vec::new(), Vec::new());
        for variant in &item.variants {
            let (word, about) = (told.spelled(&variant.ident.to_string()), docs(&variant.attrs));
            let kind = match variant.fields.iter().next().map(|field| &field.ty) {
                Some(ty) if self.is_struct(ty) => {
                    below.push((source::name(ty).unwrap_or_default(), format!("{at}.{word}"), about));
                    continue;
                }
                Some(ty) => {
                    format!("`{{ {word} = … }}`, a {}", self.kind(ty).with_context(|| at.to_owned())?.0)
                }
                None => format!("`\"{word}\"`"),
            };
            key.about.push_str(&format!(" `{word}`: {about}"));
            kinds.push(kind);
        }
        kinds.extend((!below.is_empty()).then(|| "a table below".to_owned()));
        key.kind = kinds.join("; or ");
        self.tables[index].keys.push(key);
        below.into_iter().try_for_each(|(name, at, about)| {
            self.fields(&name, Table { is_one_of: true, ..Table::at(&at, &about) })
        })
    }

    /// An enum as one table, in which the key `tag` says which other keys there are.
    fn tagged(&mut self, about: &str, at: &str, item: &ItemEnum, tag: &str) -> anyhow::Result<()> {
        let told = Told::of(&item.attrs)?;
        let (mut words, mut meanings, mut below) =
            (Vec::new(), Vec::new(), Vec::<(String, Vec<String>)>::new());
        for variant in &item.variants {
            let word = told.spelled(&variant.ident.to_string());
            meanings.push(format!("`{word}`: {}", docs(&variant.attrs)));
            words.push(format!("`\"{word}\"`"));
            let name = variant.fields.iter().next().and_then(|field| source::name(&field.ty));
            let name = name.with_context(|| format!("{at}: {word} has no settings"))?;
            let choice = format!("`{tag} = \"{word}\"`");
            match below.iter_mut().find(|(known, _)| *known == name) {
                Some((_, choices)) => choices.push(choice),
                None => below.push((name, vec![choice])),
            }
        }
        let key = Key {
            name: tag.to_owned(),
            kind: words.join(", "),
            default: Unset::Required,
            about: meanings.join(" "),
        };
        self.tables.push(Table { keys: vec![key], ..Table::at(at, about) });
        below.into_iter().try_for_each(|(name, choices)| {
            let choice = Some(choices.join(" or "));
            self.fields(&name, Table { choice, is_one_of: true, ..Table::at(at, "") })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        #[serde(default)] struct Config {
            /// The bus.
            bus: Bus,
            /// Commands.
            custom: BTreeMap<String, Custom>,
            /// How.
            way: Way,
            /// What makes them.
            provider: Option<Provider>,
        }
        #[serde(default)] struct Bus {
            /// How often.
            every_s: u64,
            /// Where.
            file: Option<PathBuf>,
            #[serde(skip)] hidden: Odd,
        }
        impl Default for Bus { fn default() -> Self { Self { every_s: 7, file: None, hidden: odd() } } }
        struct Custom {
            /// Program.
            argv: Vec<String>,
        }
        #[serde(rename_all = "snake_case")] enum Way {
            /// By itself.
            #[default] Auto,
            /// By a unit.
            Systemd(Custom),
        }
        #[serde(tag = "provider", rename_all = "kebab-case")] enum Provider {
            /// Thick.
            Lvm(Custom),
            /// Thin.
            LvmThin(Custom),
        }
    "#;

    fn found(text: &str) -> anyhow::Result<Vec<Table>> {
        let mut source = Source::default();
        source.add(text)?;
        tables(&source, "Config")
    }

    #[test]
    fn each_key_has_its_table_kind_default_and_meaning() {
        let tables = found(TEXT).unwrap();
        let paths: Vec<(&str, Option<&str>)> =
            tables.iter().map(|t| (t.path.as_str(), t.choice.as_deref())).collect();
        assert_eq!(
            paths,
            [
                ("", None),
                ("bus", None),
                ("custom.<name>", None),
                ("way.systemd", None),
                ("provider", None),
                ("provider", Some("`provider = \"lvm\"` or `provider = \"lvm-thin\"`")),
            ]
        );
        let key = |table: usize, index: usize| {
            let key = &tables[table].keys[index];
            (key.name.as_str(), key.kind.as_str(), key.default.clone(), key.about.as_str())
        };
        let auto = Unset::Value("\"auto\"".into());
        assert_eq!(key(0, 0), ("way", "`\"auto\"`; or a table below", auto, "How. `auto`: By itself."));
        assert_eq!(key(1, 0), ("every_s", "whole number, seconds", Unset::Value("7".into()), "How often."));
        assert_eq!(key(1, 1), ("file", "path", Unset::Absent, "Where."));
        assert_eq!(key(2, 0), ("argv", "list of texts", Unset::Required, "Program."));
        assert_eq!(key(4, 0).0, "provider");
        assert_eq!(tables[3].about, "By a unit.");
    }

    #[test]
    fn what_the_page_could_not_tell_is_an_error_by_its_key() {
        for (field, wanted) in
            [("/// A.\n x: Odd", "x"), ("x: u64", "no doc comment"), ("/// A.\n x: fn()", "x")]
        {
            let text = format!("#[serde(default)] struct Config {{ {field} }}");
            let error = format!("{:#}", found(&text).unwrap_err());
            assert!(error.contains(wanted), "{error}");
        }
    }
}
