//! The items that another crate can name.

use std::collections::BTreeMap;

use syn::{Item, ItemUse, UseTree};

use crate::render::{implementations, name_of, render, visibility_of};
use crate::source::{Module, is_public};

/// The public interface of a crate as text: module by module, in the order of their names, every item with its methods and the
/// traits that it implements.
pub fn listing(name: &str, root: &Module) -> String {
    let mut listing = Listing { root, modules: BTreeMap::new() };
    listing.module(root);
    let mut text = String::new();
    for (module, items) in listing.modules {
        let path = [vec![name.to_string()], module].concat().join("::");
        text += &format!("// {path}\n\n");
        items.values().for_each(|item| text += &format!("{item}\n"));
    }
    text
}

struct Listing<'a> {
    root: &'a Module,
    /// By path, then by name.
    modules: BTreeMap<Vec<String>, BTreeMap<String, String>>,
}

impl Listing<'_> {
    fn module(&mut self, module: &Module) {
        let mut items = BTreeMap::new();
        for item in &module.items {
            match item {
                Item::Use(reexport) if is_public(&reexport.vis) => {
                    self.reexports(module, reexport, &mut items)
                }
                item if visibility_of(item).is_some_and(is_public) => {
                    items.insert(name_of(item), self.whole(item));
                }
                _ => {}
            }
        }
        self.modules.insert(module.path.clone(), items);
        module.children.values().filter(|child| child.is_public).for_each(|child| self.module(child));
    }

    /// An item with what is implemented for it.
    fn whole(&self, item: &Item) -> String {
        let mut text = render(item);
        text += &implementations(self.root, &name_of(item));
        text
    }

    fn reexports(&self, module: &Module, reexport: &ItemUse, items: &mut BTreeMap<String, String>) {
        for (path, name) in leaves(&reexport.tree, &[]) {
            let text = match self.resolve(module, &path) {
                // Listed where it is declared.
                Some((declared, _)) if self.root.is_reachable(&declared.path) => None,
                Some((_, item)) => Some(self.whole(item)),
                None => None,
            };
            let text = text.unwrap_or_else(|| match path.last() {
                Some(last) if *last != name => format!("pub use {} as {name};\n", path.join("::")),
                _ => format!("pub use {};\n", path.join("::")),
            });
            items.insert(name, text);
        }
    }

    /// The item of this crate that a path means in a module, with the module that declares it.
    fn resolve<'m>(&'m self, module: &'m Module, path: &[String]) -> Option<(&'m Module, &'m Item)> {
        let (name, folders) = path.split_last()?;
        let mut at = module;
        for (place, folder) in folders.iter().enumerate() {
            at = match folder.as_str() {
                "crate" if place == 0 => self.root,
                "self" => at,
                "super" => self.root.find(&at.path[..at.path.len().checked_sub(1)?])?,
                folder => at.children.get(folder)?,
            };
        }
        let item = at.items.iter().find(|item| !matches!(item, Item::Impl(_)) && name_of(item) == *name);
        if let Some(item) = item {
            return Some((at, item));
        }
        at.items.iter().find_map(|item| {
            let Item::Use(reexport) = item else { return None };
            let (path, _) = leaves(&reexport.tree, &[]).into_iter().find(|(_, leaf)| leaf == name)?;
            if at.path == module.path { None } else { self.resolve(at, &path) }
        })
    }
}

/// The paths that a `use` names, each with the name that it gets.
fn leaves(tree: &UseTree, before: &[String]) -> Vec<(Vec<String>, String)> {
    let path = |name: String| [before, &[name]].concat();
    match tree {
        UseTree::Path(inner) => leaves(&inner.tree, &path(inner.ident.to_string())),
        UseTree::Name(name) => vec![(path(name.ident.to_string()), name.ident.to_string())],
        UseTree::Rename(name) => vec![(path(name.ident.to_string()), name.rename.to_string())],
        UseTree::Glob(_) => vec![(path("*".to_string()), "*".to_string())],
        UseTree::Group(group) => group.items.iter().flat_map(|tree| leaves(tree, before)).collect(),
    }
}
