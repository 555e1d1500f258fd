//! What lies row by row, on a Hopper GPU: `cargo test --release -p zqc-cuda --test gpu_rows`. As with `gpu`, the test binary needs nothing
//! but the driver, NVRTC and a folder for temporary files.

mod support;

use std::sync::Arc;

use half::{bf16, f16};
use support::{Random, Spec};
use zqc_cuda::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr};
use zqc_cuda::{
    Accumulation, CodedTokens, DataType, Device, Element, IndexType, Model, Package, RowQuantizer, Table,
    TableCodes, TableGather, TableInput, TableLinear, Workspace,
};
use zqc_formats::{ActivationFormat, Format};
use zqc_linear::{Activations, Isa, quantize_tokens};

/// An element type with its conversions.
trait Number: Element + DeviceRepr + Copy + Unpin + Default + PartialEq + std::fmt::Debug {
    fn of(value: f32) -> Self;
    fn value(self) -> f32;
    fn activations(values: &[Self]) -> Activations<'_>;
}

macro_rules! number {
    ($type:ty, $kind:ident, $of:expr, $value:expr) => {
        impl Number for $type {
            fn of(value: f32) -> Self {
                $of(value)
            }
            fn value(self) -> f32 {
                $value(self)
            }
            fn activations(values: &[Self]) -> Activations<'_> {
                Activations::$kind(values)
            }
        }
    };
}

number!(bf16, Bf16, bf16::from_f32, bf16::to_f32);
number!(f16, F16, f16::from_f32, f16::to_f32);
number!(f32, F32, |value| value, |value| value);

struct Bench {
    device: Device,
    stream: Arc<CudaStream>,
}

impl Bench {
    fn new() -> Self {
        let device = Device::new(0).unwrap_or_else(|error| panic!("{error}"));
        let stream = device.context().new_stream().unwrap();
        Self { device, stream }
    }

    fn upload<T: DeviceRepr>(&self, values: &[T]) -> CudaSlice<T> {
        let slice = self.stream.clone_htod(values).unwrap();
        self.stream.synchronize().unwrap();
        slice
    }

    fn zeros<T: DeviceRepr + Default + Clone>(&self, length: usize) -> CudaSlice<T> {
        self.upload(&vec![T::default(); length])
    }

    fn download<T: DeviceRepr + Default + Clone>(&self, slice: &CudaSlice<T>) -> Vec<T> {
        let host = self.stream.clone_dtoh(slice).unwrap();
        self.stream.synchronize().unwrap();
        host
    }

    fn address<T>(&self, slice: &CudaSlice<T>) -> u64 {
        slice.device_ptr(&self.stream).0
    }

    fn address_mut<T>(&self, slice: &mut CudaSlice<T>) -> u64 {
        slice.device_ptr_mut(&self.stream).0
    }

    /// Codes and scales of rows.
    fn quantize<T: Number>(
        &self,
        x: &CudaSlice<T>,
        tokens: usize,
        k: usize,
    ) -> (CudaSlice<u8>, CudaSlice<f32>) {
        let (mut codes, mut scales) = (self.zeros::<u8>(tokens * k), self.zeros::<f32>(tokens));
        let (to, scales_to) = (self.address_mut(&mut codes), self.address_mut(&mut scales));
        let quantizer = RowQuantizer::new(&self.device);
        let x = (self.address(x), T::TYPE);
        // SAFETY: the slices have the sizes that are said.
        unsafe { quantizer.quantize(x, [tokens, k], to, scales_to, self.stream.cu_stream()) }.unwrap();
        (codes, scales)
    }
}

/// Rows of all kinds: normal, zero, with one outlier, tiny, equal, and where `special`, NaN and infinity.
fn rows<T: Number>(tokens: usize, k: usize, special: bool, random: &mut Random) -> Vec<T> {
    let mut x = Vec::with_capacity(tokens * k);
    for token in 0..tokens {
        let at = random.below(k as u64) as usize;
        for column in 0..k {
            let normal = random.normal();
            x.push(T::of(match token % 8 {
                1 => 0.0,
                2 if column == at => 500.0,
                3 => 1e-4 * normal,
                4 => -0.25,
                5 if special && column == at => f32::NAN,
                6 if special && column == at => f32::NEG_INFINITY,
                _ => normal,
            }));
        }
    }
    x
}

#[test]
fn rows_are_quantized_as_on_the_cpu() {
    fn check<T: Number>(bench: &Bench) {
        let mut random = Random(1);
        for (tokens, k) in [(0, 8), (1, 576), (9, 72), (33, 1000), (17, 77), (8, 1), (300, 4096), (16, 11008)]
        {
            let x: Vec<T> = rows(tokens, k, true, &mut random);
            let (codes, scales) = bench.quantize(&bench.upload(&x), tokens, k);
            let (codes, scales) = (bench.download(&codes), bench.download(&scales));
            let (mut expected, mut expected_scales) = (vec![0; tokens * k], vec![0.0f32; tokens]);
            let (isa, format) = (Isa::detect().unwrap(), ActivationFormat::E4M3);
            let x = T::activations(&x);
            quantize_tokens(isa, format, x, k, &mut expected, &mut expected_scales, &mut []).unwrap();
            let bits = |scales: &[f32]| scales.iter().map(|scale| scale.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&scales), bits(&expected_scales), "{tokens} x {k}, {:?}", T::TYPE);
            assert!(codes == expected, "{tokens} x {k}, {:?}", T::TYPE);
        }
    }
    let bench = Bench::new();
    check::<bf16>(&bench);
    check::<f16>(&bench);
    check::<f32>(&bench);
}

/// A layer in memory gives for codes the bits that it gives for the rows that they are of.
#[test]
fn codes_and_rows_give_the_same() {
    fn check<T: Number>(bench: &Bench, spec: Spec, tokens: &[usize], workspace: &Workspace) {
        let mut random = Random(spec.n as u64 ^ (spec.k as u64) << 20);
        let layer = spec.layer("layer", &mut random);
        let linear = Model::load(&bench.device, &Package::pack(&[layer]).unwrap(), Accumulation::Fast)
            .unwrap()
            .linear("layer")
            .unwrap();
        for &tokens in tokens {
            let x = bench.upload(&rows::<T>(tokens.max(1), spec.k, false, &mut random));
            let length = tokens.max(1) * spec.n;
            let (mut expected, mut y) = (bench.zeros::<T>(length), bench.zeros::<T>(length));
            if tokens > 0 {
                linear.forward(&x, tokens, &bench.stream, &mut expected).unwrap();
            }
            let (codes, scales) = bench.quantize(&x, tokens, spec.k);
            let to = bench.address_mut(&mut y);
            let x = CodedTokens { codes: bench.address(&codes), scales: bench.address(&scales), tokens };
            let stream = bench.stream.cu_stream();
            // SAFETY: the slices have the sizes that are said.
            unsafe { linear.forward_codes(x, to, T::TYPE, workspace, stream) }.unwrap();
            let (y, expected) = (bench.download(&y), bench.download(&expected));
            assert!(y == expected, "{tokens} tokens, {spec:?}, {:?}", T::TYPE);
        }
    }
    let bench = Bench::new();
    let workspace = Workspace::new(&bench.device);
    let few = [0, 1, 2, 8, 9, 17, 33, 64, 65, 130, 300];
    check::<f16>(&bench, Spec::new(8, 72, 32, 8).bias(), &few, &workspace);
    check::<f32>(&bench, Spec::new(130, 77, 32, 0), &few, &workspace);
    check::<bf16>(&bench, Spec::new(200, 264, 64, 40).bias(), &few, &workspace);
    check::<f16>(&bench, Spec::new(576, 1536, 64, 8).m3(), &few, &workspace);
    check::<bf16>(&bench, Spec::new(576, 1500, 64, 8).lut4(), &few, &workspace);
    // Clusters of two that take several tiles each, which the codes of one must not overtake.
    check::<f16>(&bench, Spec::new(24, 2056, 128, 24), &[400, 1056, 1100, 4500], &workspace);
    check::<f32>(&bench, Spec::new(72, 4104, 32, 16).e3m0(), &[1, 5, 700, 3000], &workspace);
}

/// A random table with its values, in groups of columns.
fn table(
    bench: &Bench,
    codes: TableCodes,
    [rows, k, group_size]: [usize; 3],
) -> (CudaSlice<u8>, CudaSlice<f32>, Vec<f32>) {
    let groups = k.div_ceil(group_size);
    let mut random = Random(rows as u64 ^ (k as u64) << 20);
    let format = if codes == TableCodes::Int8 { Format::Int8 } else { Format::E4M3 };
    let code = |random: &mut Random| match format {
        Format::Int8 => random.below(256) as u8,
        _ => format.encode(100.0 * random.normal()),
    };
    let bytes: Vec<u8> = (0..rows * k).map(|_| code(&mut random)).collect();
    let scales: Vec<f32> = (0..rows * groups).map(|_| 0.001 + 0.01 * random.uniform()).collect();
    let codebook = format.codebook();
    let scale = |at: usize| scales[at / k * groups + at % k / group_size];
    let values =
        bytes.iter().enumerate().map(|(at, &code)| codebook[usize::from(code)] * scale(at)).collect();
    (bench.upload(&bytes), bench.upload(&scales), values)
}

#[test]
fn rows_are_looked_up() {
    fn check<T: Number>(bench: &Bench, codes: TableCodes) {
        let (rows, k) = (53, 77);
        let (bytes, scales, values) = table(bench, codes, [rows, k, k]);
        let table = Table { codes: bench.address(&bytes), scales: bench.address(&scales), rows, k };
        let indices = [0i64, 52, 7, -1, -53, 53, -54, i64::MAX, 7];
        let gather = TableGather::new(&bench.device, codes, T::TYPE);
        let expected: Vec<T> = indices
            .iter()
            .flat_map(|&index| {
                let row = if index < 0 { index + rows as i64 } else { index };
                let row = usize::try_from(row).ok().filter(|&row| row < rows);
                (0..k).map(move |column| (row, column))
            })
            .map(|(row, column)| T::of(row.map_or(0.0, |row| values[row * k + column])))
            .collect();
        let mut y = bench.zeros::<T>(indices.len() * k);
        let to = bench.address_mut(&mut y);
        let wide = bench.upload(&indices);
        let from = (bench.address(&wide), IndexType::I64);
        let stream = bench.stream.cu_stream();
        // SAFETY: the slices have the sizes that are said.
        unsafe { gather.gather(from, indices.len(), table, to, stream) }.unwrap();
        assert!(bench.download(&y) == expected, "{codes:?}, {:?}", T::TYPE);
        let narrow = bench.upload(&indices[..7].iter().map(|&index| index as i32).collect::<Vec<_>>());
        let mut y = bench.zeros::<T>(7 * k);
        let to = bench.address_mut(&mut y);
        // SAFETY: as above.
        unsafe { gather.gather((bench.address(&narrow), IndexType::I32), 7, table, to, stream) }.unwrap();
        assert!(bench.download(&y) == expected[..7 * k], "{codes:?}, {:?}, int32", T::TYPE);
    }
    let bench = Bench::new();
    for codes in [TableCodes::Int8, TableCodes::E4M3] {
        check::<bf16>(&bench, codes);
        check::<f16>(&bench, codes);
        check::<f32>(&bench, codes);
    }
}

#[test]
fn heads_multiply_by_tables() {
    /// `y = x W^T` against f64; `x` as floats where `coded` is not, else as codes.
    fn check<T: Number>(bench: &Bench, codes: TableCodes, coded: bool) {
        let mut random = Random(5);
        let shapes = [
            (64, 64, 64),
            (1000, 576, 576),
            (70, 77, usize::MAX),
            (130, 1040, 1040),
            (5, 16, 16),
            (100, 576, 64),
            (33, 1000, 128),
            (64, 77, 64),
        ];
        for (rows_of_table, k, group_size) in shapes {
            let (bytes, scales, values) = table(bench, codes, [rows_of_table, k, group_size]);
            let table = Table {
                codes: bench.address(&bytes),
                scales: bench.address(&scales),
                rows: rows_of_table,
                k,
            };
            let linear = TableLinear::new(&bench.device, codes, group_size, T::TYPE);
            for tokens in [0, 1, 3, 8, 9, 31, 64, 65, 200] {
                let x: Vec<T> = rows(tokens.max(1), k, false, &mut random);
                let on_device = bench.upload(&x);
                let (x_codes, x_scales) = bench.quantize(&on_device, tokens, k);
                let (input, x): (_, Vec<f64>) = if coded {
                    let decoded = bench.download(&x_codes).into_iter().enumerate();
                    let x_scales_of = bench.download(&x_scales);
                    let x = decoded.map(|(at, code)| {
                        f64::from(Format::E4M3.decode(code)) * f64::from(x_scales_of[at / k])
                    });
                    let input = TableInput::Codes {
                        codes: bench.address(&x_codes),
                        scales: bench.address(&x_scales),
                    };
                    (input, x.collect())
                } else {
                    let input = TableInput::Floats(bench.address(&on_device), T::TYPE);
                    (input, x.iter().map(|x| f64::from(x.value())).collect())
                };
                let mut y = bench.zeros::<T>(tokens * rows_of_table + 1);
                let to = bench.address_mut(&mut y);
                // SAFETY: the slices have the sizes that are said.
                unsafe { linear.forward(input, tokens, table, to, bench.stream.cu_stream()) }.unwrap();
                let y: Vec<f64> = bench.download(&y).iter().map(|y| f64::from(y.value())).collect();
                let (&guard, y) = y.split_last().unwrap();
                assert_eq!(guard, 0.0, "wrote past the end");
                let expected: Vec<f64> = x
                    .chunks_exact(k)
                    .take(tokens)
                    .flat_map(|x| {
                        values.chunks_exact(k).map(move |row| {
                            row.iter().zip(x).map(|(&weight, x)| f64::from(weight) * x).sum::<f64>()
                        })
                    })
                    .collect();
                let error = support::relative_error(y, &expected, rows_of_table);
                let bound = match T::TYPE {
                    DataType::F32 => 5e-6,
                    DataType::F16 => 1e-3,
                    DataType::Bf16 => 4e-3,
                };
                assert!(
                    error <= bound,
                    "{codes:?}, {tokens} x {k} x {rows_of_table}, {:?}, coded {coded}: {error:.2e}",
                    T::TYPE
                );
            }
        }
    }
    let bench = Bench::new();
    for codes in [TableCodes::Int8, TableCodes::E4M3] {
        for coded in [false, true] {
            check::<bf16>(&bench, codes, coded);
            check::<f16>(&bench, codes, coded);
            check::<f32>(&bench, codes, coded);
        }
    }
}
