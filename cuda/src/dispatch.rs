//! Which variant a shape gets: the fastest of those measured on a card, or what the times of other shapes say of it.

mod cost;

use std::str::FromStr;
use std::sync::LazyLock;

use zqc_kernels::BLOCK;

use crate::error::Error;
use crate::variant::{
    Accumulation, DataType, LinearKernel, LinearVariant, Prologue, QuantizeKernel, QuantizeShape,
    QuantizeVariant,
};
use cost::{Cost, Shape};

/// The streaming multiprocessors of an H100 or H200, on which the table was measured.
const MULTIPROCESSORS: usize = 132;

/// What does any number of tokens of any layer, should a table have nothing for them.
const ANY: LinearVariant =
    LinearVariant { kernel: LinearKernel::Prefill, tokens: 128, cluster: 1, blocks_per_sm: 1 };

/// Numbers of tokens for which costs are compared: the steps of a plan.
const STEPS: [usize; 26] = [
    8, 16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280,
    1536, 2048, 4096, 8192,
];

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
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Table {
    linear: Vec<Row<LinearVariant>>,
    costs: Vec<Cost>,
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

    /// Reads the columns n, k, m_max, kernel, tokens, cluster, blocks_per_sm; of quantization, which no n concerns, n is 0. Rows of
    /// costs have the word cost, the kernel with its tile, and the fields of [`Cost`].
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
        if let ["cost", columns @ ..] = columns.as_slice() {
            self.costs.push(Cost::parse(columns)?);
            return Ok(());
        }
        let &[n, k, limit, kernel, tokens, cluster, blocks_per_sm] = columns.as_slice() else {
            return Err(format!("{} columns instead of 7", columns.len()));
        };
        let (shape, limit) = ((number(n)?, number(k)?), number(limit)?);
        let (tokens, cluster) = (number(tokens)?, number(cluster)?);
        let quantize = match kernel {
            "quantize" => Some(QuantizeKernel::Few),
            "quantize_many" => Some(QuantizeKernel::Many),
            _ => None,
        };
        if let Some(kernel) = quantize {
            let variant = QuantizeVariant { kernel, tokens, cluster }.check().map_err(|e| e.to_string())?;
            self.quantize.push(Row { shape, limit, variant });
            return Ok(());
        }
        let variant = linear_variant(kernel, tokens, cluster, number(blocks_per_sm)?)?;
        if !variant.covers(limit) {
            return Err(format!("{kernel} of {tokens} tokens for {limit}"));
        }
        self.linear.push(Row { shape, limit, variant });
        Ok(())
    }

    /// The variants of a layer of `n` x `k` on a card of so many multiprocessors. What was measured is the fast accumulation.
    pub fn linear(
        &self,
        n: usize,
        k: usize,
        multiprocessors: usize,
        accumulation: Accumulation,
    ) -> Plan<LinearVariant> {
        let shape = Shape::new(n, k);
        let measured = self.linear.iter().filter(|row| Shape::new(row.shape.0, row.shape.1) == shape);
        let mut steps: Vec<_> = measured.map(|row| (row.limit, row.variant)).collect();
        if steps.is_empty() || multiprocessors != MULTIPROCESSORS || accumulation != Accumulation::Fast {
            let share = multiprocessors as f64 / MULTIPROCESSORS as f64;
            let cheapest = |tokens| {
                let costs = self.costs.iter().filter(|cost| cost.variant.fits(shape.blocks, accumulation));
                let costs =
                    costs.filter_map(|cost| Some((cost.predict(shape, tokens, share)?, cost.variant)));
                costs.min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, variant)| (tokens, variant))
            };
            steps = STEPS.into_iter().filter_map(cheapest).collect();
        }
        // Neighbouring steps of one variant are one; the last has no end.
        steps.reverse();
        steps.dedup_by_key(|&mut (_, variant)| variant);
        steps.reverse();
        match steps.last_mut() {
            Some((limit, variant)) if variant.covers(usize::MAX) => *limit = usize::MAX,
            _ => steps.push((usize::MAX, ANY)),
        }
        Plan { steps }
    }

    /// The variants of an activation of `k` columns, for plain 16-bit inputs.
    pub fn quantize(&self, k: usize) -> Plan<QuantizeVariant> {
        let ratio = |row: &&Row<QuantizeVariant>| (row.shape.1.max(1) as f64 / k.max(1) as f64).ln().abs();
        let nearest = self.quantize.iter().min_by(|a, b| ratio(a).total_cmp(&ratio(b))).map(|row| row.shape);
        let measured = self.quantize.iter().filter(|row| Some(row.shape) == nearest);
        let mut steps: Vec<_> = measured.map(|row| (row.limit, row.variant.fitting(&plain(k)))).collect();
        // The rule goes on where what was measured ends.
        let end = steps.last().map_or(0, |&(limit, _)| limit);
        steps.extend(quantize_rule(k).into_iter().filter(|&(limit, _)| limit > end));
        Plan { steps }
    }
}

fn linear_variant(
    kernel: &str,
    tokens: u32,
    cluster: u32,
    blocks_per_sm: u32,
) -> Result<LinearVariant, String> {
    let kernel = match kernel {
        "decode" => LinearKernel::Decode,
        "prefill" => LinearKernel::Prefill,
        _ => return Err(format!("no kernel {kernel:?}")),
    };
    LinearVariant { kernel, tokens, cluster, blocks_per_sm }.check().map_err(|e| e.to_string())
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

/// For few tokens, enough blocks to fill the multiprocessors; for many, as few blocks for a token as can hold it.
fn quantize_rule(k: usize) -> Vec<(usize, QuantizeVariant)> {
    const TOKENS: u32 = 8;
    let few = |cluster| QuantizeVariant { kernel: QuantizeKernel::Few, tokens: TOKENS, cluster };
    let mut steps = Vec::new();
    for cluster in [8, 4, 2, 1] {
        let is_filled = cluster == 1 || k.div_ceil(BLOCK) >= 2 * cluster as usize;
        if is_filled && few(cluster).fitting(&plain(k)) == few(cluster) {
            steps.push((TOKENS as usize * MULTIPROCESSORS / cluster as usize, few(cluster)));
        }
    }
    let many = QuantizeVariant { kernel: QuantizeKernel::Many, ..few(1) };
    steps.push((usize::MAX, many.fitting(&plain(k))));
    steps
}

/// The quantization that was measured.
fn plain(k: usize) -> QuantizeShape {
    QuantizeShape { k, rank: 0, input: Some(DataType::Bf16), prologue: Prologue::None }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn linear(text: &str, n: usize, k: usize, tokens: usize) -> (LinearKernel, u32, u32) {
        let plan = Table::parse(text).unwrap().linear(n, k, MULTIPROCESSORS, Accumulation::Fast);
        let LinearVariant { kernel, tokens, cluster, .. } = plan.variant(plan.index(tokens));
        (kernel, tokens, cluster)
    }

    /// Sides of layers that were measured, and of others: of small models, with few panels or blocks, and long ones.
    const SHAPES: [(usize, usize); 9] = [
        (4096, 4096),
        (28672, 8192),
        (5120, 5120),
        (576, 1536),
        (192, 576),
        (8, 72),
        (32000, 4096),
        (4096, 28672),
        (128, 100_000),
    ];

    #[test]
    fn every_shape_has_a_kernel_for_every_number_of_tokens() {
        let table = Table::measured().unwrap();
        for (n, k) in SHAPES {
            for (multiprocessors, accumulation) in [1, 78, 114, MULTIPROCESSORS]
                .into_iter()
                .flat_map(|count| Accumulation::ALL.map(|of| (count, of)))
            {
                let plan = table.linear(n, k, multiprocessors, accumulation);
                for tokens in (1..600).chain([1024, 5000, usize::MAX]) {
                    let variant = plan.variant(plan.index(tokens)).check().unwrap();
                    assert!(variant.covers(tokens), "{n} x {k}, {tokens} tokens: {variant:?}");
                    let blocks = k.div_ceil(BLOCK);
                    assert!(variant.fits(blocks, accumulation), "{n} x {k}: {variant:?}");
                    let shares =
                        variant.kernel == LinearKernel::Prefill || variant.cluster as usize <= blocks;
                    assert!(shares, "{n} x {k}, {tokens} tokens: {variant:?}");
                }
            }
        }
    }

    #[test]
    fn measured_shapes_have_what_was_measured() {
        let table = "4096\t4096\t16\tdecode\t16\t4\t2\n4096\t4096\t1\tdecode\t8\t2\t2\n4096\t4096\t99\tprefill\t192\t1\t1\n\
                     cost\tprefill\t64\t1\t1\t132\t1\t1\t1\n";
        assert_eq!(linear(table, 4096, 4096, 1), (LinearKernel::Decode, 8, 2));
        assert_eq!(linear(table, 4090, 4000, 2), (LinearKernel::Decode, 16, 4));
        assert_eq!(linear(table, 4096, 4096, 100_000), (LinearKernel::Prefill, 192, 1));
        assert_eq!(linear(table, 4096, 8192, 1), (LinearKernel::Prefill, 64, 1));
        // Another card.
        let plan = Table::parse(table).unwrap().linear(4096, 4096, 78, Accumulation::Fast);
        assert_eq!(plan.variant(plan.index(1)).kernel, LinearKernel::Prefill);
    }

    /// Of two tiles that cost the same a block, the one whose rounds are full.
    #[test]
    fn other_shapes_have_what_costs_least() {
        let table = "cost\tdecode\t64\t1\t1\t132\t2\t1\t0.5\ncost\tdecode\t64\t2\t1\t66\t2\t1\t0.5\n\
                     cost\tprefill\t256\t1\t1\t132\t8\t0\t0.7\n";
        // 40 panels fit both ways at once, and clusters halve K. 100 panels take clusters of two a second round.
        assert_eq!(linear(table, 40 * 128, 4096, 64), (LinearKernel::Decode, 64, 2));
        assert_eq!(linear(table, 100 * 128, 4096, 64), (LinearKernel::Decode, 64, 1));
        assert_eq!(linear(table, 100 * 128, 4096, 4096), (LinearKernel::Prefill, 256, 1));
        // A K too long for wide tiles.
        assert_eq!(linear(table, 100 * 128, 28672, 4096).0, LinearKernel::Decode);
    }

    /// Tokens beyond what a table has a kernel for are not left undone.
    #[test]
    fn an_incomplete_table_leaves_nothing_out() {
        assert_eq!(linear("", 4096, 4096, 1), (LinearKernel::Prefill, 128, 1));
        let few = "4096\t4096\t16\tdecode\t16\t4\t2\n";
        assert_eq!(linear(few, 4096, 4096, 16), (LinearKernel::Decode, 16, 4));
        assert_eq!(linear(few, 4096, 4096, 17), (LinearKernel::Prefill, 128, 1));
    }

    /// What a server prepares for its largest batch is there for every smaller one.
    #[test]
    fn up_to_a_number_is_every_variant_below_it() {
        for (n, k) in SHAPES {
            let plan = Table::measured().unwrap().linear(n, k, MULTIPROCESSORS, Accumulation::Fast);
            for most in [1, 7, 8, 9, 64, 100, 1024, 5000] {
                let prepared: HashSet<_> = plan.up_to(most).map(|tokens| plan.index(tokens)).collect();
                let needed: HashSet<_> = (1..=most).map(|tokens| plan.index(tokens)).collect();
                assert_eq!(prepared, needed, "{n} x {k}, {most} tokens");
            }
        }
    }

    fn quantize(text: &str, k: usize, tokens: usize) -> (QuantizeKernel, u32, u32) {
        let plan = Table::parse(text).unwrap().quantize(k);
        let QuantizeVariant { kernel, tokens, cluster } = plan.variant(plan.index(tokens));
        (kernel, tokens, cluster)
    }

    #[test]
    fn quantization_has_clusters_while_tokens_are_few() {
        use QuantizeKernel::{Few, Many};
        let of = |k, tokens| quantize("", k, tokens);
        let by_tokens = [1, 132, 133, 1056, 1057].map(|tokens| of(4096, tokens));
        assert_eq!(by_tokens, [(Few, 8, 8), (Few, 8, 8), (Few, 8, 4), (Few, 8, 1), (Many, 8, 1)]);
        assert_eq!([of(72, 1), of(72, 2000)], [(Few, 8, 1), (Many, 8, 1)]);
        assert_eq!([of(11008, 1), of(11008, 264), of(11008, 265)], [(Few, 8, 8), (Few, 8, 4), (Many, 8, 1)]);
        assert_eq!([of(28672, 1), of(28672, 5000)], [(Few, 8, 8), (Many, 8, 4)]);
        // A block of threads for each block of columns at most.
        assert_eq!(quantize("0\t4096\t96\tquantize_many\t8\t4\t1\n", 192, 70), (Many, 8, 2));
        // So long that neither holds it in registers.
        assert_eq!(of(100_000, 1), (Few, 8, 8));
    }

    #[test]
    fn a_quantization_that_was_measured_fits() {
        use QuantizeKernel::{Few, Many};
        assert_eq!(quantize("0\t4096\t64\tquantize\t32\t2\t1\n", 28672, 10), (Few, 8, 8));
        assert_eq!(quantize("0\t4096\t64\tquantize_many\t16\t1\t1\n", 28672, 10), (Many, 16, 4));
        let many = QuantizeVariant { kernel: Many, tokens: 16, cluster: 1 };
        let of = |input, prologue| {
            let QuantizeVariant { kernel, tokens, cluster } =
                many.fitting(&QuantizeShape { k: 8192, rank: 16, input, prologue });
            (kernel, tokens, cluster)
        };
        // Values of 32 bits take more blocks of threads.
        assert_eq!(of(Some(DataType::F16), Prologue::RmsNorm), (Many, 16, 1));
        assert_eq!(of(None, Prologue::None), (Many, 16, 1));
        assert_eq!(of(Some(DataType::F32), Prologue::None), (Many, 16, 2));
        assert_eq!(of(Some(DataType::Bf16), Prologue::SiluMul), (Many, 16, 2));
    }

    #[test]
    fn a_damaged_table_names_its_line() {
        let error = |text| Table::parse(text).unwrap_err();
        assert_eq!(error("# n\n1\t2\t3\n"), (2, "3 columns instead of 7".into()));
        assert_eq!(error("1\t2\tx\tdecode\t8\t1\t2"), (1, "\"x\" is no number".into()));
        assert_eq!(error("1\t2\t3\tother\t8\t1\t2"), (1, "no kernel \"other\"".into()));
        assert_eq!(error("1\t2\t65\tdecode\t32\t1\t2"), (1, "decode of 32 tokens for 65".into()));
        assert!(error("1\t2\t3\tprefill\t60\t1\t1").1.contains("prefill of 60 tokens"));
        assert_eq!(error("cost\tprefill\t64\t1"), (1, "3 columns of a cost instead of 8".into()));
        assert_eq!(error("cost\tprefill\t64\t1\t1\t9\tx\t1\t1"), (1, "\"x\" is no number".into()));
    }
}
