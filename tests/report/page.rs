//! The page as people see it.  Pictures of it are kept in `target/tmp/report/`.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::browser::{Browser, View};
use crate::command::autofit;
use crate::searches::{HOSTILE, Search};

const DESK: View = View { width: 1200, height: 900, dark: false, phone: false };
const DARK: View = View { dark: true, ..DESK };
const PHONE: View = View { width: 390, height: 844, dark: false, phone: true };

/// Written by the program from a journal.
fn report(search: &Search, place: &Path) -> PathBuf {
    let dir = search.write(place);
    autofit(place, &["report"]).expect(0);
    dir.join("report.html").canonicalize().unwrap()
}

fn pictures() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("report")
}

/// How many canvases have something drawn on them in more than one colour.
const DRAWN: &str = "[...document.querySelectorAll('canvas')].filter(c => new Set(new Uint32Array(
    c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size > 3).length";

#[test]
fn a_report_is_drawn_read_and_walked_through_and_asks_nobody() {
    let place = tempfile::tempdir().unwrap();
    let (cpu, gpu) = (place.path().join("cpu"), place.path().join("gpu"));
    std::fs::create_dir_all(&cpu).unwrap();
    std::fs::create_dir_all(&gpu).unwrap();
    let rescue = report(&Search::that_rescues(), &cpu);
    let mut browser = Browser::start();
    browser.view(DESK);
    browser.open(&rescue);

    // Eleven charts: throughput against memory, and memory over time of ten launches.
    assert_eq!(browser.eval("document.documentElement.dataset.drawn"), json!("11"));
    assert_eq!(browser.eval(DRAWN), json!(11));
    assert_eq!(browser.eval("document.querySelector('h1').textContent"), json!("Made to fit in 1.50 GiB"));
    pointer_finds_the_winner(&mut browser);
    keys_go_through_the_points(&mut browser);
    everything_has_a_name(&mut browser);
    commands_can_be_copied(&mut browser);
    looks(&mut browser, &rescue, "rescue");
    browser.view(DESK);
    browser.print(&pictures().join("rescue.pdf"));

    let on_gpu = report(&Search::on_a_gpu(), &gpu);
    browser.open(&on_gpu);
    assert_eq!(browser.eval("document.documentElement.dataset.drawn"), json!("10"), "losses and curves too");
    assert_eq!(browser.eval(DRAWN), json!(10));
    what_should_fit_where(&mut browser);
    looks(&mut browser, &on_gpu, "gpu");

    browser.view(DESK);
    autofit(place.path(), &["report", "cpu", "gpu"]).expect(0);
    browser.open(&place.path().canonicalize().unwrap().join("comparison.html"));
    assert_eq!(browser.eval(DRAWN), json!(1));
    browser.picture(&pictures().join("comparison.png"));

    assert_eq!(browser.complaints, Vec::<String>::new());
    assert_eq!(browser.requests, Vec::<String>::new());
}

#[test]
fn a_command_that_looks_like_a_page_is_shown_as_text() {
    let place = tempfile::tempdir().unwrap();
    let file = report(&Search::that_is_hostile(), place.path());
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("sesame-street"), "secrets stay out");
    let mut browser = Browser::start();
    browser.view(DESK);
    browser.open(&file);
    assert_eq!(
        browser.eval("document.title"),
        json!("autofit: The script fails, and not for want of memory")
    );
    let shown = browser.eval("document.querySelector('.command code').textContent");
    assert!(shown.as_str().unwrap().contains(HOSTILE), "{shown}");
    assert!(browser.eval("document.querySelector('.tail').textContent").as_str().unwrap().contains(HOSTILE));
    assert_eq!(browser.eval("document.querySelectorAll('img').length"), json!(0));
    assert_eq!(browser.complaints, Vec::<String>::new());
    assert_eq!(browser.requests, Vec::<String>::new());
}

#[test]
fn the_browser_would_see_a_request_and_a_complaint() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().canonicalize().unwrap().join("bad.html");
    let page = "<html data-drawn=0><img src='https://example.com/x.png'><script>console.error('no')</script>";
    std::fs::write(&file, page).unwrap();
    let mut browser = Browser::start();
    browser.open(&file);
    browser.until("document.images[0].complete");
    assert!(browser.requests.iter().any(|r| r == "https://example.com/x.png"), "{:?}", browser.requests);
    assert!(browser.complaints.iter().any(|c| c.contains("no")), "{:?}", browser.complaints);
}

/// The tip beside the pointer names the launch that it is over.
fn pointer_finds_the_winner(browser: &mut Browser) {
    // Where the page itself says that the winner is, by its keys; then the pointer goes there.
    browser.eval("document.getElementById('scatter').scrollIntoView({block: 'center'})");
    browser.eval("document.getElementById('scatter').focus()");
    let tip = "document.querySelector('#scatter .tip')";
    for _ in 0..12 {
        browser.press("ArrowRight");
        if browser.eval(&format!("{tip}.textContent")).as_str().unwrap().contains("(winner)") {
            break;
        }
    }
    let place = browser.eval(
        "(() => { const o = document.querySelector('#scatter .u-over').getBoundingClientRect(), \
         x = new DOMMatrix(getComputedStyle(document.querySelector('#scatter .u-cursor-x')).transform).m41, \
         y = new DOMMatrix(getComputedStyle(document.querySelector('#scatter .u-cursor-y')).transform).m42; \
         return [o.left + x, o.top + y]; })()",
    );
    browser.press("Escape");
    assert_eq!(browser.eval(&format!("{tip}.hidden")), json!(true));
    browser.point(place[0].as_f64().unwrap() + 3.0, place[1].as_f64().unwrap() + 2.0);
    browser.until(&format!("!{tip}.hidden"));
    let said = browser.eval(&format!("{tip}.textContent"));
    let said = said.as_str().unwrap();
    assert!(said.contains("confirm: ") && said.contains("441 ± 4 samples/s, peak 1.29 GiB"), "{said}");
    browser.picture(&pictures().join("hover.png"));
    browser.point(2.0, 2.0);
    browser.until(&format!("{tip}.hidden"));
}

/// Arrow keys walk, and what they come to is spoken.
fn keys_go_through_the_points(browser: &mut Browser) {
    browser.eval("document.getElementById('trace-3').focus()");
    browser.press("Home");
    let first = browser.eval("document.getElementById('spoken').textContent");
    browser.press("ArrowRight");
    let second = browser.eval("document.getElementById('spoken').textContent");
    browser.press("End");
    let last = browser.eval("document.getElementById('spoken').textContent");
    assert!(first.as_str().unwrap().ends_with("after 0.0 s"), "{first}");
    assert!(second.as_str().unwrap().ends_with("after 0.1 s"), "{second}");
    assert!(last.as_str().unwrap().ends_with("after 11 s"), "{last}");
    // Tab goes from chart to chart.
    browser.press("Tab");
    assert_eq!(browser.eval("document.activeElement.id"), json!("trace-4"));
    assert_eq!(browser.eval("document.querySelector('#trace-3 .tip').hidden"), json!(true));
}

/// Charts, tables that move and buttons say what they are, and headings stand in order.
fn everything_has_a_name(browser: &mut Browser) {
    let nameless = browser.eval(
        "[...document.querySelectorAll('.plot, .scroll, button, section')].filter(e => \
         !(e.getAttribute('aria-label') || document.getElementById(e.getAttribute('aria-labelledby'))?.textContent)).length",
    );
    assert_eq!(nameless, json!(0));
    let headings = browser.eval("[...document.querySelectorAll('h1, h2, h3')].map(h => h.tagName).join(' ')");
    assert!(headings.as_str().unwrap().starts_with("H1 H2") && !headings.as_str().unwrap().contains("H1 H3"));
    assert_eq!(browser.eval("document.querySelectorAll('[id]').length === new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size"), json!(true));
}

/// A command is copied, or selected where the browser lets nobody copy.
fn commands_can_be_copied(browser: &mut Browser) {
    browser.eval("document.querySelector('[data-copy]').click()");
    browser.until("['Copied', 'Selected'].includes(document.querySelector('[data-copy]').textContent)");
    browser.until("document.querySelector('[data-copy]').textContent === 'Copy'");
}

/// Light, dark and on a phone: nothing is wider than the screen, the text can be read, and a picture is kept.
fn looks(browser: &mut Browser, file: &Path, name: &str) {
    for (view, how) in
        [(DESK, "light"), (DARK, "dark"), (PHONE, "phone"), (View { dark: true, ..PHONE }, "phone-dark")]
    {
        browser.view(view);
        browser.open(file);
        let overflow =
            browser.eval("document.documentElement.scrollWidth - document.documentElement.clientWidth");
        assert_eq!(overflow, json!(0), "{name}, {how}: the page moves sideways");
        assert_eq!(browser.eval(TOO_FAINT), json!([]), "{name}, {how}");
        browser.picture(&pictures().join(format!("{name}-{how}.png")));
    }
}

/// Texts whose contrast with what is behind them is below 4.5 (WCAG AA).
const TOO_FAINT: &str = "(() => {
    const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
    const over = (...layers) => {
        canvas.clearRect(0, 0, 1, 1);
        for (const l of layers) { canvas.fillStyle = l; canvas.fillRect(0, 0, 1, 1); }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = c => { const [r, g, b] = c.map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
        return .2126 * r + .7152 * g + .0722 * b; };
    const faint = new Set();
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const e = texts.currentNode.parentElement;
        if (!texts.currentNode.textContent.trim() || !e.offsetParent || e.closest('.unseen')) continue;
        const behind = [];
        for (let p = e; p; p = p.parentElement) behind.unshift(getComputedStyle(p).backgroundColor);
        const ground = over(...behind), text = over(...behind, getComputedStyle(e).color);
        const [a, b] = [light(ground), light(text)].sort((x, y) => y - x);
        if ((a + .05) / (b + .05) < 4.5) faint.add(e.className + ': ' + texts.currentNode.textContent.trim());
    }
    return [...faint];
})()";

/// The sizes of cards and a row for each rung that lowers memory; the curves answer to keys.
fn what_should_fit_where(browser: &mut Browser) {
    let cells = "[...document.querySelectorAll('#where tbody tr')].map(r => r.textContent).length";
    assert_eq!(browser.eval(cells), json!(3), "as it is, amp, checkpointing");
    let row = "document.querySelector('#where tbody tr').querySelectorAll('td')[3].textContent";
    assert_eq!(browser.eval(row), json!("83"), "(24 GiB x 0.94 - 1.29 GiB) / 262 MiB");
    let windows = "document.querySelectorAll('#turns tbody tr').length";
    assert_eq!(browser.eval(windows), json!(6));
    assert!(
        browser
            .eval("document.querySelector('#turns').textContent")
            .as_str()
            .unwrap()
            .contains("not measured: ")
    );
    browser.eval("document.getElementById('curve-bytes-0').focus()");
    browser.press("End");
    let spoken = browser.eval("document.getElementById('spoken').textContent");
    assert!(spoken.as_str().unwrap().contains("batch 64"), "{spoken}");
}
