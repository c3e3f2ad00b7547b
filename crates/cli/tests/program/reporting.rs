//! `ddpm report`: the page, also in a browser.

use crate::ddpm::{ddpm, fail, object, succeed, text, tiny_sets, train_tiny};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A run with everything that a page can show; the ablation's folder.
fn measured(folder: &Path) -> (PathBuf, PathBuf) {
    let (run, ablation) = (folder.join("run <1>"), folder.join("ablation"));
    let sets = [
        "train.steps=8",
        "log.sample_every=8",
        "log.sample_count=4",
        "log.sample_steps=5",
        "log.evaluate_every=4",
        "log.evaluate_samples=0",
        "log.evaluate_images=3",
    ];
    succeed(&mut train_tiny(&run, &sets, &[]));
    succeed(ddpm(&["likelihood", "--data", "shapes32", "--n", "3"]).arg(&run));
    let mut ablate =
        ddpm(&["ablate", "shapes32", "--n", "2", "--terms", "4", "--predictions", "eps", "--out"]);
    ablate.arg(&ablation).args(["--set", "train.steps=1"]);
    for set in tiny_sets() {
        ablate.args(["--set", set]);
    }
    succeed(&mut ablate);
    (run, ablation)
}

#[test]
fn a_run_becomes_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let (run, ablation) = measured(dir.path());
    let output = ddpm(&["report", "--json", "--ablation"]).arg(&ablation).arg(&run).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told = object(&output);
    let page = PathBuf::from(told["report"].as_str().unwrap());
    assert_eq!(page, run.join("report/report.html"));
    assert!(told["files"].as_array().unwrap().iter().all(|file| Path::new(file.as_str().unwrap()).is_file()));
    let html = std::fs::read_to_string(&page).unwrap();
    for word in [
        "run &lt;1&gt;",
        "8 of 8 updates, 32 images seen",
        "4 samples of the averaged weights after 8 updates: ddim sampler, 5 steps, seed 0",
        "NLL data (bits/dim)",
        "3 of endless images",
        "L, learned diagonal Σ",
        "evaluate_images = 3",
    ] {
        assert!(html.contains(word), "{word}");
    }
    assert_eq!(html.matches("<svg").count(), 3);

    fail(ddpm(&["report"]).arg(dir.path()), 2, &["no run"]);
    fail(ddpm(&["report", "--ablation"]).arg(dir.path()).arg(&run), 2, &["ablation.json"]);
    look_at(&page, dir.path());

    // What is there but cannot be read is not left out without a word.
    for folder in ["samples", "likelihood", "evaluation"] {
        let (folder, aside) = (run.join(folder), run.join("aside"));
        let there = folder.exists();
        if there {
            std::fs::rename(&folder, &aside).unwrap();
        }
        std::fs::write(&folder, "no folder").unwrap();
        fail(ddpm(&["report"]).arg(&run), 2, &[folder.to_str().unwrap(), "cannot be read"]);
        std::fs::remove_file(&folder).unwrap();
        if there {
            std::fs::rename(&aside, &folder).unwrap();
        }
    }
}

/// What a browser finds wrong with the page; needs `DDPM_TEST_CHROMIUM`, a Chromium.
fn look_at(page: &Path, folder: &Path) {
    let Some(chromium) = std::env::var_os("DDPM_TEST_CHROMIUM") else {
        eprintln!("SKIPPED: DDPM_TEST_CHROMIUM does not name a Chromium, the page was not looked at");
        return;
    };
    // The page has no script of its own; this one tells what is broken.
    let probe = "<script>addEventListener('load', () => {
        const wrong = [];
        for (const image of document.images)
            if (!image.complete || image.naturalWidth === 0) wrong.push('an image is broken');
        for (const element of document.querySelectorAll('svg, img, table')) {
            const box = element.getBoundingClientRect();
            if (box.width < 60 || box.height < 20) wrong.push(element.tagName + ' is ' + box.width + ' by ' + box.height);
        }
        for (const element of document.querySelectorAll('svg text')) {
            const box = element.getBoundingClientRect(), svg = element.closest('svg').getBoundingClientRect();
            if (box.left < svg.left - 1 || box.right > svg.right + 1 || box.top < svg.top - 1 || box.bottom > svg.bottom + 1)
                wrong.push('cut off: ' + element.textContent);
        }
        if (document.documentElement.scrollWidth > innerWidth) wrong.push('wider than the window');
        if (performance.getEntriesByType('resource').some(entry => !entry.name.startsWith('data:')))
            wrong.push('something is fetched');
        document.body.dataset.seen = document.images.length + ' images, ' + document.querySelectorAll('svg').length + ' figures';
        document.body.dataset.wrong = wrong.join('; ') || 'nothing';
    });</script></body>";
    let probed = folder.join("probed.html");
    std::fs::write(&probed, std::fs::read_to_string(page).unwrap().replace("</body>", probe)).unwrap();
    for width in ["1200", "420"] {
        let output = Command::new(&chromium)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .arg(format!("--user-data-dir={}", folder.join(format!("profile-{width}")).display()))
            .arg(format!("--window-size={width},900"))
            .arg("--dump-dom")
            .arg(format!("file://{}", probed.display()))
            .output()
            .unwrap();
        let dom = text(&output.stdout);
        assert!(dom.contains("data-seen=\"1 images, 3 figures\""), "{width}: {}", text(&output.stderr));
        assert!(
            dom.contains("data-wrong=\"nothing\""),
            "{width}: {:?}",
            dom.split("data-wrong").nth(1).map(|rest| &rest[..rest.len().min(300)])
        );
    }
}
