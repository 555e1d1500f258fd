//! Captured graphs.

use super::*;

/// `forward` on a stream that has its scratch allocates nothing: it can be captured, and the graph stays good when the
/// stream gets a larger scratch.
#[test]
fn forward_captured_in_a_graph() {
    let device = device();
    // SAFETY: every slice of this test is used on one stream alone.
    unsafe { device.context().disable_event_tracking() };
    let mut random = Random(15);
    let layer = Spec::new(136, 256, 64, 16).bias().layer("layer", &mut random);
    let bench = Bench::new(&device, &[vec![layer.clone()]]);
    let (stream, linear) = (&bench.stream, bench.linear(&layer));
    let (tokens, k) = (48, layer.matrix.cols);
    let mut x = bench.upload(&vec![bf16::ONE; tokens * k]);
    let mut y = bench.upload(&vec![bf16::NAN; tokens * layer.matrix.rows]);
    let call = |x: &CudaSlice<bf16>, y: &mut CudaSlice<bf16>| {
        let input = x.slice(..tokens * k);
        linear.forward(&input, tokens, stream, &mut y.slice_mut(..tokens * layer.matrix.rows)).unwrap();
    };
    call(&x, &mut y);

    let _capturing = capturing();
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    call(&x, &mut y);
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().expect("a captured graph");

    for more in [0, 65, 500] {
        bench.check_forward(&layer, more, &mut random);
        let new: Vec<bf16> = rows(tokens, k, true, &mut random);
        stream.memcpy_htod(&new, &mut x).unwrap();
        graph.launch().unwrap();
        let quantized = support::quantized(&values(&new), k);
        let y = &bench.download(&y)[..tokens * layer.matrix.rows];
        compare(&format!("graph of forward, after {more} tokens"), &layer, &quantized, y);
    }
}

/// A prepared model can be captured on streams that it has never seen, with more and more tokens; graphs of different streams run side
/// by side.
#[test]
fn forward_captured_on_new_streams() {
    let device = device();
    // SAFETY: every slice of this test is used on one stream alone.
    unsafe { device.context().disable_event_tracking() };
    let mut random = Random(16);
    let layer = Spec::new(136, 512, 64, 16).bias().layer("layer", &mut random);
    let model = Bench::new(&device, &[vec![layer.clone()]]).model;
    model.prepare(200, DataType::Bf16, &[Prologue::None], DataType::Bf16).unwrap();
    let benches =
        [(); 3].map(|()| Bench { model: model.clone(), stream: device.context().new_stream().unwrap() });
    let mut graphs: Vec<_> = benches.iter().map(|bench| (bench, Vec::new())).collect();
    for tokens in [1, 40, 200] {
        for (bench, graphs) in &mut graphs {
            graphs.push(Captured::new(bench, &layer, rows(tokens, layer.matrix.cols, true, &mut random)));
        }
    }
    for _ in 0..50 {
        for size in 0..3 {
            graphs.iter().for_each(|(_, graphs)| graphs[size].graph.launch().unwrap());
        }
    }
    for (bench, graphs) in &graphs {
        graphs.iter().for_each(|captured| captured.check(bench, &layer));
    }
}

/// What was not prepared is compiled and loaded amid the capture.
#[test]
fn forward_captured_without_preparation() {
    let device = device();
    // SAFETY: every slice of this test is used on one stream alone.
    unsafe { device.context().disable_event_tracking() };
    let mut random = Random(17);
    let layer = Spec::new(104, 200, 64, 16).layer("layer", &mut random);
    let bench = Bench::new(&device, &[vec![layer.clone()]]);
    let captured = Captured::new(&bench, &layer, rows(5, layer.matrix.cols, true, &mut random));
    captured.graph.launch().unwrap();
    captured.check(&bench, &layer);
}

/// A graph of one `forward`.
struct Captured {
    input: Vec<bf16>,
    y: CudaSlice<bf16>,
    graph: CudaGraph,
    _x: CudaSlice<bf16>,
}

impl Captured {
    fn new(bench: &Bench, layer: &LayerParts, input: Vec<bf16>) -> Self {
        let (stream, linear) = (&bench.stream, bench.linear(layer));
        let tokens = input.len() / layer.matrix.cols;
        let x = bench.upload(&input);
        let mut y = bench.upload(&vec![bf16::NAN; tokens * layer.matrix.rows]);
        let _capturing = capturing();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        let rows = tokens * layer.matrix.rows;
        linear.forward(&x.slice(..input.len()), tokens, stream, &mut y.slice_mut(..rows)).unwrap();
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).unwrap().expect("a captured graph");
        Self { input, y, graph, _x: x }
    }

    /// Compares what the graph has written.
    fn check(&self, bench: &Bench, layer: &LayerParts) {
        let k = layer.matrix.cols;
        let tokens = self.input.len() / k;
        let quantized = support::quantized(&values(&self.input), k);
        let y = &bench.download(&self.y)[..tokens * layer.matrix.rows];
        compare(&format!("{tokens} tokens, graph"), layer, &quantized, y);
    }
}

/// A graph gives what the calls gave that were captured, on new inputs too.
#[test]
fn captured_in_a_graph() {
    let device = device();
    // SAFETY: every slice of this test is used on one stream alone.
    unsafe { device.context().disable_event_tracking() };
    let mut random = Random(11);
    let layers = [
        Spec::new(256, 512, 128, 16).layer("q", &mut random),
        Spec::new(64, 512, 128, 16).bias().layer("k", &mut random),
    ];
    let bench = Bench::new(&device, &[layers.to_vec()]);
    let stream = &bench.stream;
    for tokens in [1, 33, 100] {
        let k = layers[0].matrix.cols;
        bench.model.prepare(tokens, DataType::Bf16, &[Prologue::None], DataType::Bf16).unwrap();
        let mut scratch = bench.model.scratch(tokens).unwrap();
        let mut x = bench.upload(&vec![bf16::ZERO; tokens * k]);
        let mut outputs =
            layers.each_ref().map(|layer| bench.upload(&vec![bf16::NAN; tokens * layer.matrix.rows]));

        let _capturing = capturing();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        let input = x.slice(..tokens * k);
        let activation = bench.linear(&layers[0]).activation();
        bench.model.quantize(activation, Input::plain(&input), tokens, &mut scratch, stream).unwrap();
        for (layer, y) in layers.iter().zip(&mut outputs) {
            let mut y = y.slice_mut(..tokens * layer.matrix.rows);
            bench.linear(layer).apply(&scratch, &mut y, stream).unwrap();
        }
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).unwrap().expect("a captured graph");

        for _ in 0..3 {
            let new: Vec<bf16> = rows(tokens, k, true, &mut random);
            stream.memcpy_htod(&new, &mut x).unwrap();
            graph.launch().unwrap();
            let quantized = support::quantized(&values(&new), k);
            for (layer, y) in layers.iter().zip(&outputs) {
                let y = &bench.download(y)[..tokens * layer.matrix.rows];
                compare(&format!("{tokens} tokens, graph"), layer, &quantized, y);
            }
        }
    }
}
