//! The bar chart: a panel for each case, with a bar for each command, as SVG.

use crate::results::{Case, Results, Row};
use crate::statistics::range;
use crate::table::{CHART_CASES, seconds, times};

const WIDTH: f64 = 960.0;
const PANEL_WIDTH: f64 = 464.0;
const LINE_HEIGHT: f64 = 18.0;
/// Where a panel's bars begin. The names are to the left.
const BARS_LEFT: f64 = 142.0;
/// The length of the longest bar of a panel. The figures are to the right.
const LONGEST_BAR: f64 = 200.0;

/// Colors for light and dark mode, without a background. Some renderers do not support CSS variables.
pub const STYLE: &str = "\
<style>
  text { font: 11px system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif; fill: #1f2328 }
  .title { font-size: 12.5px; font-weight: 600 }
  .faint { fill: #59636e }
  .own { fill: #0969da }
  .peer { fill: #9aa4af }
  .limit { fill: none; stroke: #9aa4af; stroke-dasharray: 3 2 }
  .hollow { fill: none; stroke: #9aa4af; stroke-width: 1.5 }
  .name { paint-order: stroke; stroke: #ffffff; stroke-width: 3px; stroke-linejoin: round }
  .line { stroke: #1f2328; fill: none }
  .grid { stroke: #d1d9e0; fill: none }
  .edge { stroke: #0969da; stroke-dasharray: 5 4; fill: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .faint { fill: #9198a1 }
    .own { fill: #4493f8 }
    .peer { fill: #656c76 }
    .limit { stroke: #8b949e }
    .hollow { stroke: #656c76 }
    .name { stroke: #0d1117 }
    .line { stroke: #f0f6fc }
    .grid { stroke: #3d444d }
    .edge { stroke: #4493f8 }
  }
</style>
";

/// Escapes the characters that XML reserves.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

pub fn text(x: f64, y: f64, class: &str, anchor: &str, content: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\" text-anchor=\"{anchor}\">{}</text>\n", escaped(content))
}

pub fn svg(results: &Results) -> String {
    let mut body = String::new();
    // Each panel goes into the shorter of the two columns. The sweeps have no panel.
    let mut bottom = [28.0f64; 2];
    for case in CHART_CASES.iter().filter_map(|name| results.case(name)) {
        let column = usize::from(bottom[1] < bottom[0]);
        let (panel, height) = panel(case);
        let x = column as f64 * (WIDTH - PANEL_WIDTH);
        body += &format!("<g transform=\"translate({x:.0} {:.0})\">\n{panel}</g>\n", bottom[column]);
        bottom[column] += height;
    }
    let height = range(&bottom).1;
    let head = text(
        0.0,
        14.0,
        "faint",
        "start",
        "Median wall time of a copy; whiskers: fastest and slowest round; shorter is better",
    );
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-label=\"Wall time of each tool in each case\">\n{STYLE}{head}{body}</svg>\n"
    )
}

/// The panel of a case, and its height.
fn panel(case: &Case) -> (String, f64) {
    let longest = case.rows.iter().map(|row| case.spread(row).1).fold(0.0, f64::max);
    let scale = LONGEST_BAR / longest;
    let mut out = text(0.0, 14.0, "title", "start", &case.title);
    let mut y = 24.0;
    for (number, row) in case.rows.iter().enumerate() {
        out += &bar(case, row, y, scale, number == 0);
        y += LINE_HEIGHT;
    }
    (out, y + 22.0)
}

fn bar(case: &Case, row: &Row, y: f64, scale: f64, own: bool) -> String {
    let class = if row.limit {
        "limit"
    } else if own || row.peer.starts_with("dio-cp") {
        "own"
    } else {
        "peer"
    };
    let (wall, (low, high)) = (case.wall(row) * scale, case.spread(row));
    let middle = y + LINE_HEIGHT / 2.0;
    let mut out = text(BARS_LEFT - 6.0, middle + 4.0, "", "end", &row.peer);
    out += &format!(
        "<rect x=\"{BARS_LEFT}\" y=\"{:.1}\" width=\"{wall:.1}\" height=\"{:.1}\" class=\"{class}\"/>\n",
        y + 3.0,
        LINE_HEIGHT - 6.0
    );
    let (left, right) = (BARS_LEFT + low * scale, BARS_LEFT + high * scale);
    out += &format!(
        "<path d=\"M{left:.1} {middle}H{right:.1}M{left:.1} {a}v6M{right:.1} {a}v6\" class=\"line\"/>\n",
        a = middle - 3.0
    );
    let ratio = if own { String::new() } else { format!(" · {}", times(case.ratio(row))) };
    out + &text(right.max(BARS_LEFT + wall) + 6.0, middle + 4.0, "faint", "start", &(seconds(case.wall(row)) + &ratio))
}
