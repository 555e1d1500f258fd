//! Which variant a shape gets: from the table measured on the card, or from a rule where it has nothing.

use std::sync::LazyLock;

use zqc_kernels::{BLOCK, PANEL};

use crate::error::Error;
use crate::variant::{LinearKernel, LinearVariant, QuantizeVariant};

/// The streaming multiprocessors of an H100 or H200, which a launch should fill.
const MULTIPROCESSORS: usize = 132;

/// For each number of tokens a variant: the first of the list whose limit is not below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan<V> {
    steps: Vec<(usize, V)>,
}

impl<V: Copy> Plan<V> {
    /// The place of the variant for `tokens`, below [`Plan::len`].
    pub fn index(&self, tokens: usize) -> usize {
        self.steps.partition_point(|&(limit, _)| limit < tokens).min(self.steps.len() - 1)
    }

    pub fn variant(&self, index: usize) -> V {
        self.steps[index].1
    }

    /// For each variant that up to `tokens` tokens get, the most of them that get it.
    pub fn up_to(&self, tokens: usize) -> impl Iterator<Item = usize> + '_ {
        self.steps[..=self.index(tokens)].iter().map(move |&(limit, _)| limit.min(tokens))
    }

    pub fn len(&self) -> usize {
        self.steps.len()
    }
}

/// The measured table: `cuda/dispatch.tsv`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    linear: Vec<Row<LinearVariant>>,
    quantize: Vec<Row<QuantizeVariant>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row<V> {
    shape: (usize, usize),
    limit: usize,
    variant: V,
}

impl Table {
    /// The table that this crate was built with.
    pub fn measured() -> Result<&'static Self, Error> {
        static TABLE: LazyLock<Result<Table, (usize, String)>> =
            LazyLock::new(|| Table::parse(include_str!("../dispatch.tsv")));
        TABLE.as_ref().map_err(|(line, reason)| Error::Dispatch { line: *line, reason: reason.clone() })
    }

    /// Reads the columns n, k, m_max, kernel, tokens, cluster, blocks_per_sm. Of quantization, which no n concerns, n is 0.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut table = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            table.push(line).map_err(|reason| (index + 1, reason))?;
        }
        table.linear.sort_by_key(|row| (row.shape, row.limit));
        table.quantize.sort_by_key(|row| (row.shape, row.limit));
        Ok(table)
    }

    fn push(&mut self, line: &str) -> Result<(), String> {
        let columns: Vec<&str> = line.split('\t').map(str::trim).collect();
        let &[n, k, limit, kernel, tokens, cluster, blocks_per_sm] = columns.as_slice() else {
            return Err(format!("{} columns instead of 7", columns.len()));
        };
        let number = |text: &str| text.parse::<usize>().map_err(|_| format!("{text:?} is no number"));
        let small = |text: &str| text.parse::<u32>().map_err(|_| format!("{text:?} is no number"));
        let (shape, limit) = ((number(n)?, number(k)?), number(limit)?);
        let (tokens, cluster, blocks_per_sm) = (small(tokens)?, small(cluster)?, small(blocks_per_sm)?);
        let kernel = match kernel {
            "quantize" => {
                let variant = QuantizeVariant { tokens, cluster }.check().map_err(|e| e.to_string())?;
                self.quantize.push(Row { shape, limit, variant });
                return Ok(());
            }
            "decode" => LinearKernel::Decode,
            "prefill" => LinearKernel::Prefill,
            _ => return Err(format!("no kernel {kernel:?}")),
        };
        let variant =
            LinearVariant { kernel, tokens, cluster, blocks_per_sm }.check().map_err(|e| e.to_string())?;
        if !variant.covers(limit) {
            return Err(format!("{kernel} of {tokens} tokens for {limit}"));
        }
        self.linear.push(Row { shape, limit, variant });
        Ok(())
    }

    /// The variants of a layer of `n` x `k`.
    pub fn linear(&self, n: usize, k: usize) -> Plan<LinearVariant> {
        let mut plan = complete(nearest(&self.linear, (n, k)), linear_rule(n, k));
        for (_, variant) in &mut plan.steps {
            *variant = fit_linear(*variant, k);
        }
        plan
    }

    /// The variants of an activation of `k` columns.
    pub fn quantize(&self, k: usize) -> Plan<QuantizeVariant> {
        let mut plan = complete(nearest(&self.quantize, (0, k)), quantize_rule(k));
        for (_, variant) in &mut plan.steps {
            *variant = fit_quantize(*variant, k);
        }
        plan
    }
}

/// The rows of the measured shape that is nearest by the ratio of its sides.
fn nearest<V: Copy>(rows: &[Row<V>], shape: (usize, usize)) -> Vec<(usize, V)> {
    let ratio = |a: usize, b: usize| (a.max(1) as f64 / b.max(1) as f64).ln().powi(2);
    let distance = |row: &Row<V>| ratio(row.shape.0, shape.0) + ratio(row.shape.1, shape.1);
    let Some(best) = rows.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))) else {
        return Vec::new();
    };
    rows.iter().filter(|row| row.shape == best.shape).map(|row| (row.limit, row.variant)).collect()
}

/// Measured steps, and the rule's where they end.
fn complete<V>(mut measured: Vec<(usize, V)>, rule: Vec<(usize, V)>) -> Plan<V> {
    let end = measured.last().map_or(0, |&(limit, _)| limit);
    measured.extend(rule.into_iter().filter(|&(limit, _)| limit > end));
    Plan { steps: measured }
}

fn linear_rule(n: usize, k: usize) -> Vec<(usize, LinearVariant)> {
    // Few panels are shared by more blocks of threads, as far as there are columns to share.
    let most = if n.div_ceil(PANEL) <= 48 { 8 } else { 4 };
    let shares = |&cluster: &u32| cluster <= most && cluster as usize <= k.div_ceil(BLOCK);
    let split = [8, 4, 2].into_iter().find(shares).unwrap_or(1);
    let decode = |tokens| LinearVariant {
        kernel: LinearKernel::Decode,
        tokens,
        cluster: split,
        blocks_per_sm: if tokens <= 16 { 3 } else { 2 },
    };
    let prefill =
        |tokens| LinearVariant { kernel: LinearKernel::Prefill, tokens, cluster: 1, blocks_per_sm: 1 };
    let mut steps: Vec<_> = [8, 16, 32, 64].map(|tokens| (tokens as usize, decode(tokens))).into();
    // The most tokens whose tiles of 128 x 256 leave multiprocessors idle.
    let narrow = 256 * ((MULTIPROCESSORS - 1) / n.div_ceil(PANEL).max(1));
    if narrow > 64 {
        steps.push((narrow, prefill(128)));
    }
    steps.push((usize::MAX, prefill(256)));
    steps
}

/// In prefill, tiles of a long K have at most 128 tokens.
fn fit_linear(variant: LinearVariant, k: usize) -> LinearVariant {
    const LONG_BLOCKS: usize = 128;
    let is_long = variant.kernel == LinearKernel::Prefill && k.div_ceil(BLOCK) > LONG_BLOCKS;
    LinearVariant { tokens: if is_long { variant.tokens.min(128) } else { variant.tokens }, ..variant }
}

/// For few tokens, enough blocks to fill the multiprocessors; for many, as few blocks for a token as can hold it.
fn quantize_rule(k: usize) -> Vec<(usize, QuantizeVariant)> {
    const FEW: u32 = 8;
    let mut steps = Vec::new();
    for cluster in [8, 4, 2, 1] {
        let variant = QuantizeVariant { tokens: FEW, cluster };
        let is_filled = cluster == 1 || k.div_ceil(BLOCK) >= 2 * cluster as usize;
        if is_filled && fit_quantize(variant, k) == variant {
            steps.push((FEW as usize * MULTIPROCESSORS / cluster as usize, variant));
        }
    }
    steps.push((usize::MAX, QuantizeVariant { tokens: FEW, cluster: 1 }));
    steps
}

/// The tile, or the nearest whose tokens the registers hold: with more blocks for a token, then with fewer tokens.
fn fit_quantize(variant: QuantizeVariant, k: usize) -> QuantizeVariant {
    /// Vectors of 8 values that a thread keeps in registers.
    const VECTORS: usize = 16;
    let fits = |tokens: u32, cluster: u32| {
        let share = k.div_ceil(BLOCK).div_ceil(cluster as usize);
        tokens as usize / 8 * share.div_ceil(2) <= VECTORS
    };
    let tiles = [32, 16, 8].into_iter().filter(|&tokens| tokens <= variant.tokens).flat_map(|tokens| {
        let clusters = [1, 2, 4, 8].into_iter().filter(|&cluster| cluster >= variant.cluster);
        clusters.map(move |cluster| (tokens, cluster))
    });
    let (tokens, cluster) =
        tiles.into_iter().find(|&(tokens, cluster)| fits(tokens, cluster)).unwrap_or((8, 8));
    QuantizeVariant { tokens, cluster }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn linear(text: &str, n: usize, k: usize, tokens: usize) -> (LinearKernel, u32, u32) {
        let plan = Table::parse(text).unwrap().linear(n, k);
        let LinearVariant { kernel, tokens, cluster, .. } = plan.variant(plan.index(tokens));
        (kernel, tokens, cluster)
    }

    #[test]
    fn the_measured_table_is_sound() {
        Table::measured().unwrap();
    }

    #[test]
    fn an_empty_table_leaves_the_rule() {
        let of = |n, k, tokens| linear("# nothing\n\n", n, k, tokens);
        assert_eq!(of(4096, 4096, 1), (LinearKernel::Decode, 8, 8));
        assert_eq!(of(4096, 576, 9), (LinearKernel::Decode, 16, 4));
        assert_eq!(of(4096, 72, 64), (LinearKernel::Decode, 64, 1));
        assert_eq!(of(4096, 4096, 65), (LinearKernel::Prefill, 128, 1));
        assert_eq!(of(4096, 4096, 1024), (LinearKernel::Prefill, 128, 1));
        assert_eq!(of(4096, 4096, 1025), (LinearKernel::Prefill, 256, 1));
        assert_eq!(of(28672, 4096, 65), (LinearKernel::Prefill, 256, 1));
        assert_eq!(of(28672, 28672, 65), (LinearKernel::Prefill, 128, 1));
        assert_eq!(of(8, 4096, 100_000), (LinearKernel::Prefill, 256, 1));
    }

    #[test]
    fn the_nearest_shape_counts_and_the_rule_follows_it() {
        let table = "4096\t4096\t16\tdecode\t16\t4\t2\n4096\t4096\t1\tdecode\t8\t2\t2\n\
                     28672\t8192\t64\tprefill\t192\t1\t1\n";
        assert_eq!(linear(table, 5120, 5120, 1), (LinearKernel::Decode, 8, 2));
        assert_eq!(linear(table, 5120, 5120, 2), (LinearKernel::Decode, 16, 4));
        assert_eq!(linear(table, 5120, 5120, 17), (LinearKernel::Decode, 32, 8));
        assert_eq!(linear(table, 20000, 8192, 5), (LinearKernel::Prefill, 192, 1));
        assert_eq!(linear(table, 20000, 20000, 5), (LinearKernel::Prefill, 128, 1));
    }

    /// What a server prepares for its largest batch is there for every smaller one.
    #[test]
    fn up_to_a_number_is_every_variant_below_it() {
        for (n, k) in [(4096, 4096), (72, 576), (28672, 8192)] {
            let plan = Table::measured().unwrap().linear(n, k);
            for most in [1, 7, 8, 9, 64, 100, 1024, 5000] {
                let prepared: HashSet<_> = plan.up_to(most).map(|tokens| plan.index(tokens)).collect();
                let needed: HashSet<_> = (1..=most).map(|tokens| plan.index(tokens)).collect();
                assert_eq!(prepared, needed, "{n} x {k}, {most} tokens");
            }
        }
    }

    fn quantize(text: &str, k: usize, tokens: usize) -> (u32, u32) {
        let plan = Table::parse(text).unwrap().quantize(k);
        let QuantizeVariant { tokens, cluster } = plan.variant(plan.index(tokens));
        (tokens, cluster)
    }

    #[test]
    fn quantization_has_clusters_while_tokens_are_few() {
        let of = |k, tokens| quantize("", k, tokens);
        let many = [1, 132, 133, 1056, 1057].map(|tokens| of(4096, tokens));
        assert_eq!(many, [(8, 8), (8, 8), (8, 4), (8, 1), (8, 1)]);
        assert_eq!([of(72, 1), of(72, 2000)], [(8, 1), (8, 1)]);
        assert_eq!([of(11008, 1), of(11008, 264), of(11008, 265)], [(8, 8), (8, 4), (8, 4)]);
        assert_eq!([of(28672, 1), of(28672, 5000), of(100_000, 1)], [(8, 8); 3]);
        assert_eq!(
            quantize("0\t4096\t64\tquantize\t32\t2\t1\n", 28672, 10),
            (8, 8),
            "what was measured has to fit"
        );
    }

    #[test]
    fn a_damaged_table_names_its_line() {
        let error = |text| Table::parse(text).unwrap_err();
        assert_eq!(error("# n\n1\t2\t3\n"), (2, "3 columns instead of 7".into()));
        assert_eq!(error("1\t2\tx\tdecode\t8\t1\t2"), (1, "\"x\" is no number".into()));
        assert_eq!(error("1\t2\t3\tother\t8\t1\t2"), (1, "no kernel \"other\"".into()));
        assert_eq!(error("1\t2\t65\tdecode\t32\t1\t2"), (1, "decode of 32 tokens for 65".into()));
        assert!(error("1\t2\t3\tprefill\t60\t1\t1").1.contains("prefill of 60 tokens"));
    }
}
