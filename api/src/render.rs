//! Items as text, without bodies, documentation and what is private.

use syn::punctuated::Punctuated;
use syn::{
    Attribute, Block, Field, Fields, FieldsNamed, FnArg, ImplItem, Item, ItemImpl, Pat, Signature, TraitItem,
    Type, Visibility, parse_quote,
};

use crate::source::{Module, is_public};

/// The name of an item; empty for what has none.
pub fn name_of(item: &Item) -> String {
    match item {
        Item::Const(item) => item.ident.to_string(),
        Item::Enum(item) => item.ident.to_string(),
        Item::Fn(item) => item.sig.ident.to_string(),
        Item::Static(item) => item.ident.to_string(),
        Item::Struct(item) => item.ident.to_string(),
        Item::Trait(item) => item.ident.to_string(),
        Item::Type(item) => item.ident.to_string(),
        Item::Union(item) => item.ident.to_string(),
        _ => String::new(),
    }
}

/// The visibility of an item that can have one, re-exports aside.
pub fn visibility_of(item: &Item) -> Option<&Visibility> {
    match item {
        Item::Const(item) => Some(&item.vis),
        Item::Enum(item) => Some(&item.vis),
        Item::Fn(item) => Some(&item.vis),
        Item::Static(item) => Some(&item.vis),
        Item::Struct(item) => Some(&item.vis),
        Item::Trait(item) => Some(&item.vis),
        Item::Type(item) => Some(&item.vis),
        Item::Union(item) => Some(&item.vis),
        _ => None,
    }
}

/// An item of which another crate sees what is written here.
pub fn render(item: &Item) -> String {
    let mut item = item.clone();
    match &mut item {
        Item::Const(item) => keep_markers(&mut item.attrs),
        Item::Static(item) => keep_markers(&mut item.attrs),
        Item::Type(item) => keep_markers(&mut item.attrs),
        Item::Union(item) => keep_markers(&mut item.attrs),
        Item::Enum(item) => {
            keep_markers(&mut item.attrs);
            for variant in &mut item.variants {
                keep_markers(&mut variant.attrs);
                variant.fields.iter_mut().for_each(|field| keep_markers(&mut field.attrs));
            }
        }
        Item::Fn(item) => {
            keep_markers(&mut item.attrs);
            *item.block = no_body();
            hide_mut(&mut item.sig);
        }
        Item::Struct(item) => {
            keep_markers(&mut item.attrs);
            hide_private(&mut item.fields);
        }
        Item::Trait(item) => {
            keep_markers(&mut item.attrs);
            for item in &mut item.items {
                match item {
                    TraitItem::Const(item) => keep_markers(&mut item.attrs),
                    TraitItem::Type(item) => keep_markers(&mut item.attrs),
                    TraitItem::Fn(item) => {
                        keep_markers(&mut item.attrs);
                        item.default = item.default.as_ref().map(|_| no_body());
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
    print(item)
}

/// The public methods of a type of the crate, and the traits that it implements.
pub fn implementations(root: &Module, name: &str) -> String {
    let mut found = Vec::new();
    root.each_item(&mut |item| {
        let Item::Impl(block) = item else { return };
        if is_of(&block.self_ty, name)
            && let Some(block) = outside(block)
        {
            found.push((block.trait_.is_some(), print(Item::Impl(block))));
        }
    });
    found.sort();
    found.into_iter().map(|(_, text)| text).collect()
}

fn is_of(of: &Type, name: &str) -> bool {
    matches!(of, Type::Path(path) if path.path.segments.last().is_some_and(|segment| segment.ident == name))
}

/// What another crate sees of an `impl`; `None` for nothing.
fn outside(block: &ItemImpl) -> Option<ItemImpl> {
    let mut block = block.clone();
    let is_trait = block.trait_.is_some();
    keep_markers(&mut block.attrs);
    block.items.retain_mut(|item| match item {
        ImplItem::Const(item) => {
            keep_markers(&mut item.attrs);
            !is_trait && is_public(&item.vis)
        }
        ImplItem::Fn(item) => {
            keep_markers(&mut item.attrs);
            item.block = no_body();
            hide_mut(&mut item.sig);
            !is_trait && is_public(&item.vis)
        }
        ImplItem::Type(item) => {
            keep_markers(&mut item.attrs);
            true
        }
        _ => false,
    });
    (is_trait || !block.items.is_empty()).then_some(block)
}

/// Leaves the attributes that callers depend on.
fn keep_markers(attributes: &mut Vec<Attribute>) {
    let markers = ["derive", "must_use", "non_exhaustive", "repr", "deprecated"];
    attributes.retain(|attribute| markers.iter().any(|marker| attribute.path().is_ident(marker)));
}

/// Puts one field in the place of all that are private.
fn hide_private(fields: &mut Fields) {
    fields.iter_mut().for_each(|field| keep_markers(&mut field.attrs));
    let has_private = fields.iter().any(|field| !is_public(&field.vis));
    let public = |fields: &Punctuated<Field, _>| {
        fields.iter().filter(|field| is_public(&field.vis)).cloned().collect()
    };
    match fields {
        Fields::Named(named) => {
            let mut shown: Punctuated<Field, syn::Token![,]> = public(&named.named);
            if has_private {
                let private: FieldsNamed = parse_quote!({ _private: _ });
                shown.extend(private.named);
            }
            named.named = shown;
        }
        Fields::Unnamed(unnamed) if has_private => {
            unnamed
                .unnamed
                .iter_mut()
                .filter(|field| !is_public(&field.vis))
                .for_each(|field| field.ty = parse_quote!(_));
        }
        Fields::Unnamed(_) | Fields::Unit => {}
    }
}

/// Whether a function changes what it was given by value is its own business.
fn hide_mut(signature: &mut Signature) {
    for argument in &mut signature.inputs {
        match argument {
            FnArg::Receiver(this) if this.reference.is_none() => this.mutability = None,
            FnArg::Receiver(_) => {}
            FnArg::Typed(argument) => {
                if let Pat::Ident(name) = argument.pat.as_mut() {
                    name.mutability = None;
                }
            }
        }
    }
}

fn no_body() -> Block {
    parse_quote!({})
}

fn print(item: Item) -> String {
    prettyplease::unparse(&syn::File { shebang: None, attrs: Vec::new(), items: vec![item] })
}
