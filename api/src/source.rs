//! The modules of a crate, read from its sources.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use syn::{Attribute, Item, Visibility};

/// A module of a crate. What only tests have is left out.
pub struct Module {
    /// The names from the root of the crate to the module.
    pub path: Vec<String>,
    pub is_public: bool,
    /// What it declares, modules aside.
    pub items: Vec<Item>,
    pub children: BTreeMap<String, Module>,
}

impl Module {
    /// The root of the crate whose sources lie in `folder`.
    ///
    /// # Errors
    /// When a file cannot be read or parsed, with its path.
    pub fn root(folder: &Path) -> Result<Self, String> {
        Self::read(&folder.join("lib.rs"), folder, Vec::new(), true)
    }

    fn read(file: &Path, folder: &Path, path: Vec<String>, is_public: bool) -> Result<Self, String> {
        let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let items = syn::parse_file(&text).map_err(|error| format!("{}: {error}", file.display()))?;
        Self::of(items.items, folder, path, is_public)
    }

    fn of(all: Vec<Item>, folder: &Path, path: Vec<String>, public: bool) -> Result<Self, String> {
        let mut module = Self { path, is_public: public, items: Vec::new(), children: BTreeMap::new() };
        for item in all {
            match item {
                Item::Mod(declared) if is_of_tests(&declared.attrs) => {}
                Item::Mod(declared) => {
                    let name = declared.ident.to_string();
                    let path = [module.path.clone(), vec![name.clone()]].concat();
                    let child_is_public = is_public(&declared.vis);
                    let folder_of_it = folder.join(&name);
                    let child = match declared.content {
                        Some((_, items)) => Self::of(items, &folder_of_it, path, child_is_public)?,
                        None => {
                            let beside = folder.join(format!("{name}.rs"));
                            let file = if beside.exists() { beside } else { folder_of_it.join("mod.rs") };
                            Self::read(&file, &folder_of_it, path, child_is_public)?
                        }
                    };
                    module.children.insert(name, child);
                }
                other => module.items.push(other),
            }
        }
        Ok(module)
    }

    /// The module at a path from here.
    pub fn find(&self, path: &[String]) -> Option<&Self> {
        path.iter().try_fold(self, |module, name| module.children.get(name))
    }

    /// Whether another crate can name the module at a path from this root.
    pub fn is_reachable(&self, path: &[String]) -> bool {
        (1..=path.len()).all(|length| self.find(&path[..length]).is_some_and(|module| module.is_public))
    }

    /// Calls `f` for every item of this module and of those in it.
    pub fn each_item<'a>(&'a self, f: &mut dyn FnMut(&'a Item)) {
        self.items.iter().for_each(&mut *f);
        self.children.values().for_each(|child| child.each_item(f));
    }
}

pub fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// Whether this is for unit tests or documentation tests only.
fn is_of_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.meta.require_list().is_ok_and(|list| {
                let condition = list.tokens.to_string();
                condition == "test" || condition == "doctest" || condition.starts_with("all (test")
            })
    })
}
