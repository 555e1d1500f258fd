//! Every kernel compiles, for shapes of all kinds. Needs NVRTC and no GPU.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use zqc_cuda::{
    Accumulation, Compiler, DataType, IndexType, LinearKernel, LinearShape, LinearVariant, Prologue,
    QuantizeKernel, QuantizeShape, QuantizeVariant, Specialization, TableCodes, TableShape,
};
use zqc_formats::{Format, Ladder};
use zqc_kernels::Table;

fn compiler() -> Compiler {
    Compiler::uncached().unwrap_or_else(|error| panic!("{error}"))
}

/// Each prologue and type, with tiles of all kinds.
fn quantizations() -> impl Iterator<Item = Specialization> {
    use QuantizeKernel::{Few, Many};
    // Features, rank, kernel, tokens and blocks of a tile.
    let shapes = [
        (72, 0, Few, 8, 1),
        (576, 16, Few, 32, 4),
        (1000, 112, Few, 8, 2),
        (4096, 48, Few, 32, 8),
        (11008, 16, Few, 16, 8),
        (28672, 0, Few, 8, 8),
        (72, 0, Many, 8, 1),
        (1001, 112, Many, 16, 2),
        (4096, 16, Many, 8, 1),
        (11008, 48, Many, 16, 4),
    ];
    shapes.into_iter().enumerate().flat_map(|(at, (k, rank, kernel, tokens, cluster))| {
        let quantize = move |input, prologue| {
            let shape = QuantizeShape { k, rank, input, prologue };
            Specialization::quantize(&shape, QuantizeVariant { kernel, tokens, cluster })
        };
        let of_floats = Prologue::ALL
            .map(|prologue| quantize(Some(DataType::ALL[(at + prologue as usize) % 3]), prologue));
        of_floats.into_iter().chain([quantize(None, Prologue::None)])
    })
}

/// Every kernel on rows.
fn rows() -> impl Iterator<Item = Specialization> {
    let codes = [TableCodes::Int8, TableCodes::E4M3];
    let gather = codes.into_iter().flat_map(|codes| {
        let index = [IndexType::I32, IndexType::I64];
        index.map(|index| Specialization::table_gather(codes, index, DataType::ALL[index as usize % 3]))
    });
    let inputs = DataType::ALL.map(Some).into_iter().chain([None]);
    let linear = inputs.enumerate().flat_map(move |(at, input)| {
        codes.into_iter().flat_map(move |codes| {
            [(8, false), (16, true), (64, true), (64, false)].map(|(tokens, is_grouped)| {
                let shape = TableShape { codes, is_grouped, input, output: DataType::ALL[at % 3] };
                Specialization::table_linear(shape, tokens)
            })
        })
    });
    DataType::ALL.map(Specialization::quantize_rows).into_iter().chain(gather).chain(linear)
}

/// Tiles of all kinds, each for two shapes.
fn linears() -> impl Iterator<Item = Specialization> {
    let m2 = Table::new(Format::E2M1, Ladder::M2).unwrap().words();
    let m3 = Table::new(Format::E2M1, Ladder::M3).unwrap().words();
    // Sides, steps of a block, rank.
    let shapes =
        [(8, 72, 4, 0, m2), (4096, 4096, 1, 16, m2), (576, 1536, 2, 48, m3), (11008, 8192, 1, 0, m3)];
    // Tokens, cluster, blocks of a multiprocessor.
    let decode = [
        (8, 8, 3),
        (16, 4, 2),
        (32, 2, 1),
        (32, 8, 3),
        (64, 1, 2),
        (64, 3, 1),
        (96, 2, 1),
        (96, 1, 1),
        (128, 1, 1),
    ];
    let prefill = [(64, 1, 1), (128, 2, 1), (192, 4, 1), (256, 2, 1), (256, 1, 1)];
    let tiles = decode.map(|tile| (LinearKernel::Decode, tile));
    let tiles = tiles.into_iter().chain(prefill.map(|tile| (LinearKernel::Prefill, tile)));
    let linear =
        |(n, k, steps_per_block, rank, table), (kernel, (tokens, cluster, blocks_per_sm)), output| {
            // Every other of the tiles that have room for two sets of sums.
            let accumulation = Accumulation::ALL[usize::from(tokens <= 128 && cluster % 2 == 0)];
            let shape = LinearShape { n, k, steps_per_block, rank, table, output, accumulation };
            Specialization::linear(&shape, LinearVariant { kernel, tokens, cluster, blocks_per_sm })
        };
    let long = [
        (LinearKernel::Decode, (64, 8, 2)),
        (LinearKernel::Decode, (128, 2, 1)),
        (LinearKernel::Prefill, (128, 2, 1)),
    ]
    .map(|tile| linear((512, 28672, 1, 16, m3), tile, DataType::Bf16));
    let short = tiles.enumerate().flat_map(move |(at, tile)| {
        [at % 4, (at + 1) % 4].map(|shape| linear(shapes[shape], tile, DataType::ALL[(at + shape) % 3]))
    });
    short.chain(long)
}

#[test]
#[ignore = "needs NVRTC: tests/run"]
fn every_kernel_compiles() {
    let compiler = compiler();
    let kernels: Vec<Specialization> = quantizations().chain(linears()).chain(rows()).collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, |threads| threads.get()) {
            scope.spawn(|| {
                while let Some(kernel) = kernels.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let cubin = compiler.compile(kernel).unwrap_or_else(|error| panic!("{error}"));
                    assert_symbols(&cubin, kernel);
                }
            });
        }
    });
}

/// The entry, and what a launcher reads first.
fn assert_symbols(cubin: &[u8], kernel: &Specialization) {
    for symbol in [kernel.entry(), "zqc_launch"] {
        let name = [symbol.as_bytes(), b"\0"].concat();
        let found = cubin.windows(name.len()).any(|bytes| bytes == name);
        assert!(found, "{kernel} has no symbol {symbol}");
    }
}
