//! A bar for each command of each case, as SVG.

use crate::results::{Case, Results, Row, range};
use crate::table::{MAIN, seconds, times};

const WIDTH: f64 = 960.0;
const PANEL: f64 = 464.0;
const LINE: f64 = 18.0;
/// Where a panel's bars begin and how long the longest one is; the names are left of it, the figures
/// right.
const BARS: f64 = 142.0;
const LONGEST: f64 = 200.0;

/// Colours for light and dark, no background. Not by CSS variables, which some renderers lack.
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

/// What XML keeps for itself.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

pub fn text(x: f64, y: f64, class: &str, anchor: &str, words: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\" text-anchor=\"{anchor}\">{}</text>\n", escaped(words))
}

pub fn svg(results: &Results) -> String {
    let mut body = String::new();
    // Each panel goes where there is most room; the bottom of both columns.
    let mut bottom = [28.0f64; 2];
    // The sweeps are tables only.
    for case in MAIN.iter().chain(&["url"]).filter_map(|name| results.case(name)) {
        let column = usize::from(bottom[1] < bottom[0]);
        let (panel, height) = panel(case);
        let x = column as f64 * (WIDTH - PANEL);
        body += &format!("<g transform=\"translate({x:.0} {:.0})\">\n{panel}</g>\n", bottom[column]);
        bottom[column] += height;
    }
    let height = range(&bottom).1;
    let head = text(
        0.0,
        14.0,
        "faint",
        "start",
        "Wall time, medians; whiskers: quickest and slowest round; shorter is better",
    );
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-label=\"Wall time of each tool in each case\">\n{STYLE}{head}{body}</svg>\n"
    )
}

/// One case, and how high it is.
fn panel(case: &Case) -> (String, f64) {
    let longest = case.rows.iter().map(|row| case.spread(row).1).fold(0.0, f64::max);
    let scale = LONGEST / longest;
    let mut out = text(0.0, 14.0, "title", "start", &case.title);
    let mut y = 24.0;
    for (number, row) in case.rows.iter().enumerate() {
        out += &bar(case, row, y, scale, number == 0);
        y += LINE;
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
    let middle = y + LINE / 2.0;
    let mut out = text(BARS - 6.0, middle + 4.0, "", "end", &row.peer);
    out += &format!(
        "<rect x=\"{BARS}\" y=\"{:.1}\" width=\"{wall:.1}\" height=\"{:.1}\" class=\"{class}\"/>\n",
        y + 3.0,
        LINE - 6.0
    );
    let (left, right) = (BARS + low * scale, BARS + high * scale);
    out += &format!(
        "<path d=\"M{left:.1} {middle}H{right:.1}M{left:.1} {a}v6M{right:.1} {a}v6\" class=\"line\"/>\n",
        a = middle - 3.0
    );
    let ratio = if own { String::new() } else { format!(" · {}", times(case.ratio(row))) };
    out + &text(right.max(BARS + wall) + 6.0, middle + 4.0, "faint", "start", &(seconds(case.wall(row)) + &ratio))
}
