//! How fast each copy is against how long a random reader waits beside it, as SVG.

use crate::chart::{STYLE, text};
use crate::results::{Frontier, Point, median, range};
use crate::table::seconds;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 560.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 930.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 512.0;

/// Where a value is on the paper.
struct Axes {
    most: f64,
    /// Exponents of ten.
    low: f64,
    high: f64,
}

impl Axes {
    fn of(points: &[Point]) -> Self {
        let most = points.iter().map(|point| range(&point.speed).1).fold(1.0, f64::max) / 1e6;
        let latencies: Vec<f64> = points.iter().flat_map(|point| [&point.p50[..], &point.p99[..]].concat()).collect();
        let (low, high) = range(&latencies);
        // Room for what is written at the edges.
        Self { most: most * 1.08, low: (low * 0.8).log10(), high: (high * 1.2).log10() }
    }

    fn x(&self, speed: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * speed / 1e6 / self.most
    }

    fn y(&self, ms: f64) -> f64 {
        BOTTOM - (BOTTOM - TOP) * (ms.log10() - self.low) / (self.high - self.low)
    }

    fn drawn(&self) -> String {
        let mut out = String::new();
        let step = if self.most > 600.0 { 200 } else { 50 };
        for mb in (0..=self.most as u32).step_by(step) {
            let x = self.x(f64::from(mb) * 1e6);
            out += &format!("<path d=\"M{x:.1} {TOP}V{BOTTOM}\" class=\"grid\"/>\n");
            out += &text(x, BOTTOM + 16.0, "faint", "middle", &mb.to_string());
        }
        let steps = (-3..4).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)));
        for ms in steps.filter(|ms| ms.log10() >= self.low && ms.log10() <= self.high) {
            let y = self.y(ms);
            out += &format!("<path d=\"M{LEFT} {y:.1}H{RIGHT}\" class=\"grid\"/>\n");
            out += &text(LEFT - 6.0, y + 4.0, "faint", "end", &format!("{ms} ms"));
        }
        out += &text(RIGHT, BOTTOM + 34.0, "", "end", "speed of the copy, MB/s");
        let head = "Latency of random reads of 4 KiB beside a copy: p99 (full) and p50 (hollow); lower and further right is better";
        out + &text(0.0, 14.0, "", "start", head)
            + &text(
                0.0,
                32.0,
                "faint",
                "start",
                "dashed: what no other point beats in both; lines: the range of the rounds",
            )
    }
}

pub fn svg(frontier: &Frontier) -> String {
    let axes = Axes::of(&frontier.points);
    let place = |point: &Point| (axes.x(median(&point.speed)), axes.y(median(&point.p99)));
    let mut body = axes.drawn() + &edge(&frontier.points, &place);
    // Boxes that names must keep clear of.
    let mut taken: Vec<[f64; 4]> = frontier.points.iter().map(place).map(|(x, y)| around(x, y)).collect();
    taken.extend(frontier.points.iter().map(|point| around(place(point).0, axes.y(median(&point.p50)))));
    for point in &frontier.points {
        let (x, y) = place(point);
        let below = axes.y(median(&point.p50));
        let class = if point.peer.starts_with("dio-cp") { "own" } else { "peer" };
        let ((low, high), (slow, fast)) = (range(&point.p99), range(&point.speed));
        body += &format!(
            "<path d=\"M{x:.1} {:.1}V{:.1}M{:.1} {y:.1}H{:.1}\" class=\"line\" opacity=\"0.45\"/>\n",
            axes.y(low),
            axes.y(high),
            axes.x(slow),
            axes.x(fast)
        );
        body += &format!("<path d=\"M{x:.1} {y:.1}V{below:.1}\" class=\"grid\"/>\n");
        body += &format!("<circle cx=\"{x:.1}\" cy=\"{below:.1}\" r=\"3.5\" class=\"hollow\"/>\n");
        body += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" class=\"{class}\"/>\n");
    }
    for point in &frontier.points {
        let (x, y) = place(point);
        let words = format!("{} · {}", point.peer, seconds(median(&point.p99) / 1000.0));
        let (at, anchor) = label(x, y, &words, &mut taken);
        body += &text(at.0, at.1, "name", anchor, &words);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         role=\"img\" aria-label=\"Latency of a random reader against the speed of the copy beside it\">\n{STYLE}{body}</svg>\n"
    )
}

/// Through the points that no other one beats in both.
fn edge(points: &[Point], place: &dyn Fn(&Point) -> (f64, f64)) -> String {
    let mut copies: Vec<(f64, f64)> = points.iter().filter(|point| median(&point.speed) > 0.0).map(place).collect();
    copies.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut best: Vec<String> = Vec::new();
    let mut lowest = f64::MIN; // on paper, y grows downwards
    for (x, y) in copies {
        if y > lowest {
            lowest = y;
            best.push(format!("{x:.1} {y:.1}"));
        }
    }
    if best.is_empty() { String::new() } else { format!("<path d=\"M{}\" class=\"edge\"/>\n", best.join("L")) }
}

fn around(x: f64, y: f64) -> [f64; 4] {
    [x - 6.0, y - 6.0, x + 6.0, y + 6.0]
}

/// A place for a point's name that is still free, near it.
fn label(x: f64, y: f64, words: &str, taken: &mut Vec<[f64; 4]>) -> ((f64, f64), &'static str) {
    // Letters are about this wide at 11 px.
    let width = words.chars().count() as f64 * 5.9;
    let offsets = [0.0, -12.0, 12.0, -24.0, 24.0, -36.0, 36.0, -48.0, 48.0, -60.0, 60.0, -72.0, 72.0];
    let spots = offsets.iter().flat_map(|down| [(9.0, *down), (-9.0 - width, *down)]);
    let boxed = |(right, down): (f64, f64)| {
        let (left, middle) = (x + right, y + down);
        [left, middle - 6.5, left + width, middle + 6.5]
    };
    let free = |spot: &(f64, f64)| {
        let [left, top, right, bottom] = boxed(*spot);
        let inside = left >= LEFT && right <= WIDTH && top >= TOP && bottom <= BOTTOM;
        inside && !taken.iter().any(|other| left < other[2] && other[0] < right && top < other[3] && other[1] < bottom)
    };
    let (right, down) = spots.clone().find(free).unwrap_or((9.0, 0.0));
    taken.push(boxed((right, down)));
    if right > 0.0 { ((x + right, y + down + 4.0), "start") } else { ((x - 9.0, y + down + 4.0), "end") }
}
