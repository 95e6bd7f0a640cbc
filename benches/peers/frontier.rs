//! The scatter chart: the speed of each copy against the latency of a random reader, as SVG.

use crate::chart::{STYLE, text};
use crate::results::{Frontier, Point};
use crate::statistics::{median, range};
use crate::table::seconds;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 560.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 930.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 512.0;

/// Converts values to positions.
struct Axes {
    /// The right end of the horizontal axis, in MB/s.
    max_speed: f64,
    /// The ends of the vertical axis, as logarithms of milliseconds.
    low: f64,
    high: f64,
}

impl Axes {
    fn of(points: &[Point]) -> Self {
        let max_speed = points.iter().map(|point| range(&point.speed).1).fold(1.0, f64::max) / 1e6;
        let latencies: Vec<f64> = points.iter().flat_map(|point| [&point.p50[..], &point.p99[..]].concat()).collect();
        let (low, high) = range(&latencies);
        // The margins have space for labels.
        Self { max_speed: max_speed * 1.08, low: (low * 0.8).log10(), high: (high * 1.2).log10() }
    }

    fn x(&self, speed: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * speed / 1e6 / self.max_speed
    }

    fn y(&self, ms: f64) -> f64 {
        BOTTOM - (BOTTOM - TOP) * (ms.log10() - self.low) / (self.high - self.low)
    }

    fn svg(&self) -> String {
        let mut out = String::new();
        let step = if self.max_speed > 600.0 { 200 } else { 50 };
        for mb in (0..=self.max_speed as u32).step_by(step) {
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
        let head = "Latency of random 4 KiB reads during a copy: p99 (filled) and p50 (hollow); \
                    lower and further right is better";
        out + &text(0.0, 14.0, "", "start", head)
            + &text(
                0.0,
                32.0,
                "faint",
                "start",
                "dashed: the copies that no other copy beats in both speed and latency; lines: the range of the rounds",
            )
    }
}

pub fn svg(frontier: &Frontier) -> String {
    let axes = Axes::of(&frontier.points);
    let position = |point: &Point| (axes.x(median(&point.speed)), axes.y(median(&point.p99)));
    let mut body = axes.svg() + &edge(&frontier.points, &position);
    // Boxes that the names must not cover.
    let mut taken: Vec<[f64; 4]> = frontier.points.iter().map(position).map(|(x, y)| box_around(x, y)).collect();
    taken.extend(frontier.points.iter().map(|point| box_around(position(point).0, axes.y(median(&point.p50)))));
    for point in &frontier.points {
        let (x, y) = position(point);
        let p50_y = axes.y(median(&point.p50));
        let class = if point.peer.starts_with("dio-cp") { "own" } else { "peer" };
        let ((low, high), (slow, fast)) = (range(&point.p99), range(&point.speed));
        body += &format!(
            "<path d=\"M{x:.1} {:.1}V{:.1}M{:.1} {y:.1}H{:.1}\" class=\"line\" opacity=\"0.45\"/>\n",
            axes.y(low),
            axes.y(high),
            axes.x(slow),
            axes.x(fast)
        );
        body += &format!("<path d=\"M{x:.1} {y:.1}V{p50_y:.1}\" class=\"grid\"/>\n");
        body += &format!("<circle cx=\"{x:.1}\" cy=\"{p50_y:.1}\" r=\"3.5\" class=\"hollow\"/>\n");
        body += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" class=\"{class}\"/>\n");
    }
    for point in &frontier.points {
        let (x, y) = position(point);
        let name = format!("{} · {}", point.peer, seconds(median(&point.p99) / 1000.0));
        let (position, anchor) = label_position(x, y, &name, &mut taken);
        body += &text(position.0, position.1, "name", anchor, &name);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         role=\"img\" aria-label=\"Latency of a random reader against the speed of the copy\">\n{STYLE}{body}</svg>\n"
    )
}

/// The dashed line through the copies that no other copy beats in both speed and latency.
fn edge(points: &[Point], position: &dyn Fn(&Point) -> (f64, f64)) -> String {
    let mut copies: Vec<(f64, f64)> = points.iter().filter(|point| median(&point.speed) > 0.0).map(position).collect();
    copies.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut best: Vec<String> = Vec::new();
    let mut lowest = f64::MIN; // in SVG, y grows downwards
    for (x, y) in copies {
        if y > lowest {
            lowest = y;
            best.push(format!("{x:.1} {y:.1}"));
        }
    }
    if best.is_empty() { String::new() } else { format!("<path d=\"M{}\" class=\"edge\"/>\n", best.join("L")) }
}

fn box_around(x: f64, y: f64) -> [f64; 4] {
    [x - 6.0, y - 6.0, x + 6.0, y + 6.0]
}

/// A free position for a point's name, near the point.
fn label_position(x: f64, y: f64, name: &str, taken: &mut Vec<[f64; 4]>) -> ((f64, f64), &'static str) {
    // The average width of a letter at 11 px.
    let width = name.chars().count() as f64 * 5.9;
    let offsets = [0.0, -12.0, 12.0, -24.0, 24.0, -36.0, 36.0, -48.0, 48.0, -60.0, 60.0, -72.0, 72.0];
    let spots = offsets.iter().flat_map(|down| [(9.0, *down), (-9.0 - width, *down)]);
    let label_box = |(right, down): (f64, f64)| {
        let (left, middle) = (x + right, y + down);
        [left, middle - 6.5, left + width, middle + 6.5]
    };
    let free = |spot: &(f64, f64)| {
        let [left, top, right, bottom] = label_box(*spot);
        let inside = left >= LEFT && right <= WIDTH && top >= TOP && bottom <= BOTTOM;
        inside && !taken.iter().any(|other| left < other[2] && other[0] < right && top < other[3] && other[1] < bottom)
    };
    let (right, down) = spots.clone().find(free).unwrap_or((9.0, 0.0));
    taken.push(label_box((right, down)));
    if right > 0.0 { ((x + right, y + down + 4.0), "start") } else { ((x - 9.0, y + down + 4.0), "end") }
}
