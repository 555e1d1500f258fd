//! Which variant a shape gets: from the table measured on the card, or from a rule where it has nothing.

use std::sync::LazyLock;

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

    /// Reads the columns n, k, m_max, kernel, tokens, cluster. Of quantization, which no n concerns, n is 0.
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
        let &[n, k, limit, kernel, tokens, cluster] = columns.as_slice() else {
            return Err(format!("{} columns instead of 6", columns.len()));
        };
        let number = |text: &str| text.parse::<usize>().map_err(|_| format!("{text:?} is no number"));
        let small = |text: &str| text.parse::<u32>().map_err(|_| format!("{text:?} is no number"));
        let (shape, limit) = ((number(n)?, number(k)?), number(limit)?);
        let (tokens, cluster) = (small(tokens)?, small(cluster)?);
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
        let variant = LinearVariant { kernel, tokens, cluster }.check().map_err(|e| e.to_string())?;
        if kernel == LinearKernel::Decode && limit > 64 {
            return Err(format!("decode for {limit} tokens, at most 64"));
        }
        self.linear.push(Row { shape, limit, variant });
        Ok(())
    }

    /// The variants of a layer of `n` x `k`.
    pub fn linear(&self, n: usize, k: usize) -> Plan<LinearVariant> {
        let mut measured = nearest(&self.linear, (n, k));
        if k > LONG_K {
            measured.retain(|(_, variant)| variant.kernel == LinearKernel::Decode || variant.tokens <= 128);
        }
        complete(measured, linear_rule(n, k))
    }

    /// The variants of an activation of `k` columns.
    pub fn quantize(&self, k: usize) -> Plan<QuantizeVariant> {
        complete(nearest(&self.quantize, (0, k)), quantize_rule(k))
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

/// Columns beyond which the prefill kernel adds up in f32 now and then, for which 256 tokens leave it no registers.
const LONG_K: usize = 16384;

fn linear_rule(n: usize, k: usize) -> Vec<(usize, LinearVariant)> {
    let panels = n.div_ceil(128);
    // Few panels are shared by more blocks of threads, as far as there are columns to share.
    let most = if panels <= 48 { 8 } else { 4 };
    let cluster = [8, 4, 2, 1].into_iter().find(|&cluster| cluster <= most && cluster <= k.div_ceil(128)).unwrap_or(1);
    let decode = |tokens| LinearVariant { kernel: LinearKernel::Decode, tokens, cluster: cluster as u32 };
    let prefill = |tokens| LinearVariant { kernel: LinearKernel::Prefill, tokens, cluster: 1 };
    let mut steps: Vec<_> = [8, 16, 32, 64].map(|tokens| (tokens as usize, decode(tokens))).into();
    // The most tokens whose tiles of 128 x 256 leave multiprocessors idle.
    let narrow = 256 * ((MULTIPROCESSORS - 1) / panels.max(1));
    if k > LONG_K {
        steps.push((usize::MAX, prefill(128)));
        return steps;
    }
    if narrow > 64 {
        steps.push((narrow, prefill(128)));
    }
    steps.push((usize::MAX, prefill(256)));
    steps
}

fn quantize_rule(k: usize) -> Vec<(usize, QuantizeVariant)> {
    let blocks = k.div_ceil(128);
    let cluster = [8, 4, 2, 1].into_iter().find(|&cluster| blocks >= 2 * cluster).unwrap_or(1);
    // A lane holds the values of its columns in registers: the more columns, the fewer tokens.
    let many = match blocks.div_ceil(cluster) {
        0..=6 => 32,
        7..=12 => 16,
        _ => 8,
    };
    let variant = |tokens| QuantizeVariant { tokens, cluster: cluster as u32 };
    vec![(8 * MULTIPROCESSORS / cluster, variant(8)), (usize::MAX, variant(many))]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linear(text: &str, n: usize, k: usize, tokens: usize) -> (LinearKernel, u32, u32) {
        let plan = Table::parse(text).unwrap().linear(n, k);
        let LinearVariant { kernel, tokens, cluster } = plan.variant(plan.index(tokens));
        (kernel, tokens, cluster)
    }

    #[test]
    fn the_measured_table_is_sound() {
        Table::measured().unwrap();
    }

    #[test]
    fn an_empty_table_leaves_the_rule() {
        let of = |n, tokens| linear("# nothing\n\n", n, 4096, tokens);
        assert_eq!(of(4096, 1), (LinearKernel::Decode, 8, 8));
        assert_eq!(of(11008, 9), (LinearKernel::Decode, 16, 4));
        assert_eq!(of(4096, 64), (LinearKernel::Decode, 64, 8));
        assert_eq!(of(4096, 65), (LinearKernel::Prefill, 128, 1));
        assert_eq!(of(4096, 1024), (LinearKernel::Prefill, 128, 1));
        assert_eq!(of(4096, 1025), (LinearKernel::Prefill, 256, 1));
        assert_eq!(of(28672, 65), (LinearKernel::Prefill, 256, 1));
        assert_eq!(of(8, 100_000), (LinearKernel::Prefill, 256, 1));
        assert_eq!(linear("", 8, 72, 1), (LinearKernel::Decode, 8, 1), "one block of columns");
        assert_eq!(linear("4096\t4096\t9000\tprefill\t256\t1", 4096, 28672, 9000), (LinearKernel::Prefill, 128, 1));
    }

    #[test]
    fn the_nearest_shape_counts_and_the_rule_follows_it() {
        let table =
            "4096\t4096\t16\tdecode\t16\t4\n4096\t4096\t1\tdecode\t8\t8\n28672\t8192\t64\tprefill\t64\t1\n";
        assert_eq!(linear(table, 5120, 5120, 1), (LinearKernel::Decode, 8, 8));
        assert_eq!(linear(table, 5120, 5120, 2), (LinearKernel::Decode, 16, 4));
        assert_eq!(linear(table, 5120, 5120, 17), (LinearKernel::Decode, 32, 8));
        assert_eq!(linear(table, 20000, 8192, 5), (LinearKernel::Prefill, 64, 1));
    }

    #[test]
    fn quantization_takes_more_tokens_when_there_are_many() {
        let plan = Table::default().quantize(4096);
        let of = |tokens| {
            let QuantizeVariant { tokens, cluster } = plan.variant(plan.index(tokens));
            (tokens, cluster)
        };
        assert_eq!((of(1), of(132), of(133)), ((8, 8), (8, 8), (32, 8)));
        let narrow = Table::default().quantize(72);
        assert_eq!(narrow.variant(narrow.index(1)).cluster, 1);
    }

    #[test]
    fn a_damaged_table_names_its_line() {
        let error = |text| Table::parse(text).unwrap_err();
        assert_eq!(error("# n\n1\t2\t3\n"), (2, "3 columns instead of 6".into()));
        assert_eq!(error("1\t2\tx\tdecode\t8\t1"), (1, "\"x\" is no number".into()));
        assert_eq!(error("1\t2\t3\tother\t8\t1"), (1, "no kernel \"other\"".into()));
        assert_eq!(error("1\t2\t65\tdecode\t64\t1"), (1, "decode for 65 tokens, at most 64".into()));
        assert!(error("1\t2\t3\tprefill\t60\t1").1.contains("prefill of 60 tokens"));
    }
}
