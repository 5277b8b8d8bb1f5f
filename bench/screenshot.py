"""A picture of the running chat page, made by a real browser.

python bench/screenshot.py PAGE_URL OUTPUT.png [--who TITLE] [--height PIXELS] [QUESTION…]
"""

import argparse

from playwright.sync_api import sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("output")
    parser.add_argument("questions", nargs="*")
    parser.add_argument("--who", default="", help="the persona, as the page calls it")
    parser.add_argument("--height", type=int, default=860)
    given = parser.parse_intermixed_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = browser.new_page(viewport={"width": 900, "height": given.height})
        page.goto(given.url)
        page.locator("#chat .bot.message").first.wait_for()
        if given.who:
            page.locator("#who label", has_text=given.who).click()
            page.wait_for_timeout(1500)
        for question in given.questions:
            page.fill("#ask textarea", question)
            page.press("#ask textarea", "Enter")
            page.locator("#stop").wait_for(state="visible")
            page.locator("#send").wait_for(state="visible", timeout=120_000)
        page.wait_for_timeout(1500)
        page.screenshot(path=given.output)
        browser.close()


if __name__ == "__main__":
    main()
