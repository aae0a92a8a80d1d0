"""The example's page in a real browser: log in, talk, log out."""

import pytest
from playwright.async_api import expect

from chromium import chromium_in_loop, needs_chromium
from integrations.django_project import Site

pytestmark = [
    pytest.mark.timeout(120),
    needs_chromium,
]


async def test_two_who_log_in_talk_and_who_logs_out_is_asked_to_log_in(template, tmp_path):
    async with (
        Site.served(template, tmp_path, "hubbub serve") as site,
        chromium_in_loop() as browser,
    ):
        pages = []
        for name in ("ada", "bob"):
            page = await (await browser.new_context()).new_page()
            await page.goto(site.url("/", "http"))
            await page.fill("[name=username]", name)
            await page.fill("[name=password]", f"{name}'s password")
            await page.click("text=Log in")
            await expect(page.locator("#say fieldset")).to_be_enabled(timeout=15_000)
            pages.append(page)
        ada, bob = pages
        await ada.fill("[name=text]", "hello")
        await ada.press("[name=text]", "Enter")
        for page in pages:
            await expect(page.locator("#said li")).to_have_text("ada: hello", timeout=15_000)
        other_tab = await ada.context.new_page()
        await other_tab.goto(site.url("/", "http"))
        await other_tab.click("text=Log out")
        # The first tab hears that its session has ended, and loads the page anew: a login.
        await expect(ada.locator("[name=password]")).to_be_visible(timeout=15_000)
        await bob.fill("[name=text]", "still here")
        await bob.press("[name=text]", "Enter")
        await expect(bob.locator("#said li").last).to_have_text("bob: still here", timeout=15_000)
