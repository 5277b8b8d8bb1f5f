"""A picture of the running chat page, made by a real browser.

python bench/screenshot.py PAGE_URL OUTPUT.png [QUESTION…]
"""

import sys

from playwright.sync_api import sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]


def main() -> None:
    url, output, *questions = sys.argv[1:]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = browser.new_page(viewport={"width": 900, "height": 860})
        page.goto(url)
        page.locator("#chat .bot.message").first.wait_for()
        for question in questions:
            page.fill("#ask textarea", question)
            page.press("#ask textarea", "Enter")
            page.locator("#stop").wait_for(state="visible")
            page.locator("#send").wait_for(state="visible", timeout=120_000)
        page.wait_for_timeout(1500)
        page.screenshot(path=output)
        browser.close()


if __name__ == "__main__":
    main()
