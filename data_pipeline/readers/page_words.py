"""The words of classes, headings and links by which pages say what is around their main text."""

import re

ROLES = frozenset(
    "navigation banner contentinfo search menu menubar toolbar tooltip dialog alertdialog".split()
)
# A class that begins so tells of a state or a layout, not of what the element is: `has-sidebar`.
STATES = frozenset("has with no is not js hide show without when if".split())
SURROUNDINGS = frozenset(
    """
    nav navbar navigation navbox sidenav topnav subnav megamenu offcanvas breadcrumb breadcrumbs crumbs
    sidebar footer masthead colophon sitemap skiplink skipnav toc pagination paginator pager
    cookie cookies consent gdpr paywall newsletter subscribe subscription
    ad ads adsense advert advertisement advertising sponsor sponsored taboola outbrain
    social sharing sharebar sharedaddy addtoany related recommended recommendations trending
    editsection printfooter catlinks headerlink permalink anchorjs hashlink
    """.split()
)
# Of these the ones at headings and behind words.
MARKS = frozenset("editsection headerlink permalink anchorjs hashlink skiplink printfooter".split())
# The same in two words, of which each alone would say less.
SURROUNDING_PHRASES = re.compile(
    r"\b(?:jump-link|skip-(?:link|to|nav)|(?:back-)?to-top|read-(?:more|next)|also-like|table-of-contents"
    r"|more-(?:link|stories|posts|articles|news)|editors?-picks|share-(?:buttons?|bar|links?|icons?"
    r"|tools?|this)"
    r"|log-?in|sign-?(?:in|up)|user-(?:menu|nav|actions)|search-(?:form|box|bar)|follow-us"
    r"|tag-(?:list|cloud|links)|cat-links|post-tags|(?:about-(?:the-)?)?author-(?:bio|box|card)"
    r"|comment-(?:form|respond|reply)|reply-(?:form|link)|interlanguage-links?"
    r"|lang(?:uage)?-(?:switcher|selector|menu|picker|list)|site-(?:header|branding|logo)"
    r"|add-to-cart|mini-cart|wp-block-buttons)\b"
)
# Menus and boxes of links, if links are in them: a restaurant's menu has the same name.
LINKED = frozenset(
    """
    menu menus dropdown banner header search popular popup modal overlay carousel slider widget toolbar
    latest recent archive archives categories category language languages tools controls actions top
    utility bottom promo teaser teasers hero tabs filter filters list links more
    """.split()
)
# Lines about a text (its author, its date, what to do with it), which are short.
ABOUT = frozenset(
    """
    meta metadata byline dateline author timestamp published date posted tags tag categories share follow
    login signup register account avatar badges signature feedback survey vote votes donate cta captcha
    print switcher buttons logo branding likes views reactions copyright legal promo popup tooltip
    announcement
    """.split()
)
# Notes of documentation and footnotes, which pages put into <aside>.
NOTE = re.compile(
    r"\b(?:note|tip|warning|caution|important|danger|hint|info|admonition|callout|footnotes?|endnotes?"
    r"|topic|example|definition|quote|pullquote)\b"
)
OFFERED = "articles? posts? stories products? items? questions? content news reading pages? guides? links?"
# Headings over what a page offers besides, or over its controls.
RELATED = re.compile(
    "|".join(
        (
            rf"(?:related|similar|recommended|popular|latest|recent|trending|featured|top|more|other)"
            rf" (?:{OFFERED.replace(' ', '|')})",
            r"related|trending|recommended(?: for you)?|you (?:may|might|could) also (?:like|enjoy).*",
            r"more (?:from|like|on|in|about) .{1,40}|read (?:next|more|also)|up next|see more",
            r"most (?:read|popular|viewed)|customers? (?:who|also).{1,60}|frequently bought together",
            r"share (?:this|on|the).{0,30}|follow us.{0,30}|subscribe.{0,40}|sign up.{0,40}",
            r"(?:our )?newsletters?|stay (?:connected|in touch|up to date).{0,20}|leave a (?:reply|comment)",
            r"post navigation|navigation(?: menu)?|menu|on this page|in this article|table of contents",
            r"contents|categories|tags|archives?|languages?|advertisements?",
            r"das könnte (?:sie|dich|ihnen) auch.{0,30}|ähnliche (?:artikel|beiträge|produkte)",
            r"mehr zum thema|meistgelesen|(?:à )?lire aussi|articles (?:similaires|liés|récents)",
            r"sur le même sujet|vous aimerez (?:aussi|peut).{0,20}|te puede interesar",
            r"también te (?:puede|podría).{1,20}|(?:artículos|noticias) relacionad[ao]s",
            r"leia também|articoli correlati|leggi anche|lees ook|läs också|lue myös",
            r"zobacz (?:też|także|również)|читайте также|похожие (?:статьи|материалы|записи)|по теме",
            r"関連(?:記事|リンク|ページ)|人気記事|相关(?:文章|阅读|推荐|新闻)|延伸阅读|관련 ?(?:기사|글)",
            r"مقالات ذات صلة|اقرأ أيضا",
        )
    ),
    re.IGNORECASE,
)
# Of these the ones that are also headings of a text's own parts.
AMBIGUOUS = re.compile(
    r"(?:contents|categories|tags|archives?|languages?|menu|navigation|related|(?:more|latest|recent|top"
    r"|popular|featured|other) .*)",
    re.IGNORECASE,
)
# What stands on a link that works the page instead of telling something.
OPERATING = re.compile(
    "|".join(
        (
            r"(?:skip to|jump to|back to|go to|return to) .{1,30}",
            r"(?:read|learn|see|show|view|load) (?:more|all|less)\W*|continue reading\W*",
            r"share|tweet|print|reply|quote|report|edit|permalink|flag|top|home|up|log ?in|sign ?(?:in|up)",
            r"\W*(?:next|prev(?:ious)?|older|newer)(?: (?:page|posts?|article|topic|chapter))?\W*",
            r"weiterlesen|mehr lesen|lire la suite|leer más|читать далее|続きを読む|阅读更多",
        )
    ),
    re.IGNORECASE,
)
COPYRIGHT = re.compile(r"(?:©|\(c\) ?\d|copyright ?(?:©|\(c\)|\d{4}|by\b))", re.IGNORECASE)
# Signs on links at headings; the last are of the private use that fonts of icons make.
PERMALINK = re.compile(
    r"[\s¶#§🔗∞^↑↩\ufe0e\ue000-\uf8ff]*|link|permalink|\[?edit\]?|anchor", re.IGNORECASE
)
CONTENT_NAME = re.compile(
    r"(?:^| )(?:(?:main|page|body|post|entry|article|story|blog|single|mw|site)-(?:content|body|text)"
    r"(?:-text)?|content|content-(?:main|body|area)|mw-parser-output|markdown-body|article|post|entry"
    r"|main|document"
    r"|documentwrapper|bodywrapper|primary|text-body)(?: |$)"
)
