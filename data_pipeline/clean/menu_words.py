"""What menus of web pages say, in the languages that pages are commonly written in: words that turn pages,
labels of links that every page of a site has, and the names of languages.
"""

import functools
import unicodedata

# Of links to the pages before and after, by what DocBook, Sphinx, GNU Texinfo, Hugo and WordPress write.
# A table of words, not sentences: an entry a language or two a line.
BACK = """
prev|previous|previous topic|previous page|previous post|previous article|previous chapter|back
older posts|older|zurück|vorherige|vorherige seite|vorheriges thema|vorheriger beitrag|précédent
page précédente|sujet précédent|article précédent|anterior|página anterior|tema anterior
indietro|precedente|pagina precedente|argomento precedente|artigo anterior|vorige|vorige pagina
terug|föregående|forrige|tilbage|tilbake|edellinen|poprzedni|wstecz|poprzednia strona
předcházející|předchozí|predchádzajúce|előző|înapoi|precedentul|назад|пред.|пред|предыдущий
предыдущая|попер.|попередній|попередня|geri|önceki|lùi|trước|sebelumnya|πίσω|προηγ.|προηγούμενο
前へ|前のページ|前のトピックへ|戻る|前のページへ|上一页|上一頁|上一章|上一節|前一頁|后退|이전
이전 토픽|이전 글|ก่อนหน้า|السابق|הקודם|enrere|endarrera|aurrekoa|eelmine|atpakaļ|ankstesnis
назад към|предишна|претходна|nazaj|natrag|پیشین
"""
ON = """
next|next topic|next page|next post|next article|next chapter|forward|newer posts|newer|continue
weiter|nächste|nächste seite|nächstes thema|nächster beitrag|vor|suivant|page suivante
sujet suivant|article suivant|siguiente|página siguiente|próximo tema|avanti|successivo
successiva|pagina successiva|argomento successivo|próxima|próximo|próxima página|seguinte
volgende|volgende pagina|nästa|neste|næste|frem|seuraava|następny|następna|dalej|następna strona
další|dalši|následující|nasledujúce|ďalší|következő|înainte|următorul|вперёд|вперед|след.|след
следующий|следующая|наст.|наступ.|наступний|наступна|sonraki|ileri|tiếp|tiếp theo|berikutnya
selanjutnya|επόμενο|επόμ.|次へ|次のページ|次のトピックへ|進む|次のページへ|下一页|下一頁|下一章
下一節|前进|다음|다음 토픽|다음 글|ถัดไป|التالي|הבא|següent|endavant|hurrengoa|järgmine
uz priekšu|kitas|напред|следваща|следећа|naprej|naprijed|پسین
"""
AROUND = """
up|home|top|index|contents|toc|back to top|go to top|to top|table of contents|start|main page
one level up|parent|nach oben|zum anfang|hoch|startseite|inhalt|inhaltsverzeichnis
stichwortverzeichnis|hauptseite|niveau supérieur|sommaire|accueil|table des matières
haut de page|remonter|début|subir|inicio|ev|índice|contenido|tabla de contenidos|arriba|risali
partenza|indice|sommario|principale|inizio|acima|início|conteúdo|índice remissivo|principal
omhoog|begin|inhoud|inhoudsopgave|upp|hem|opp|hjem|op|forsiden|ylös|alku|sisällysluettelo
początek|początek rozdziału|spis treści|w górę|strona główna|nahoru|domů|obsah|hore|domov|fel
kezdőlap|tartalom|tartalomjegyzék|tartalomjegyzet|sus|acasă|cuprins|вверх|наверх|начало
уровень выше|на уровень выше|содержание|оглавление|вгору|початок|зміст|рівень вище|üst|yukarı
başlangıç|içindekiler|lên|đầu|mục lục|atas|beranda|πάνω|αρχή|περιεχόμενα|ホーム|上へ|上に戻る
目次|索引|起始页|起始頁|上一级|上一級|上级|首页|首頁|目录|目錄|目次表|위로|처음으로|목차|홈|색인
ขึ้น|บ้าน|หน้าแรก|أعلى|البداية|الرئيسية|amunt|inici|taula de continguts|gora|hasiera|üles|nagore
горе|начална страница
"""
# Of links and buttons around a page, each alone on its line.
LABELS = """
available languages|verfügbare sprachen|langues disponibles|idiomas disponibles|línguas disponíveis
доступные языки|mevcut diller|가능한 언어|可用语言|言語|tilgængelige sprog
skip to content|skip to main content|skip to navigation|jump to navigation|jump to content
toggle navigation|toggle sidebar|toggle menu|open menu|close menu|main menu|menu|navigation
site navigation|breadcrumb|breadcrumbs|you are here|on this page|in this article|this page
quick search|search|go|sitemap|site map|all pages|recent changes|show source|view source
view page source|edit|edit this page|edit this page on github|edit on github|edit page
improve this page|report a bug|report this page|report an issue|report a problem|view history
history|printable version|what links here|related changes|special pages|permanent link
page information|cite this page|random page|upload file|log in|login|sign in|sign up|register
create account|log out|my account|subscribe|newsletter|rss|rss feed|follow us|share|share this
share on twitter|share on facebook|tweet|print|print this page|email this page|download pdf|like
about|about us|contact|contact us|help|news|blog|products|services|support|faq|download
downloads|documentation|docs|careers|jobs|press|legal|imprint|impressum|privacy|terms|cookies
feedback|donate|community|forum|shop|cart|archive|archives|categories|tags|related posts
related articles|related pages|recent posts|popular posts|read more|show more|languages|language
select language|choose language|available languages|other languages|in other languages
was this page helpful?|did you find this page useful?|yes|no|expand all|collapse all|view all
see all|leave a comment|zum inhalt springen|suche|suchen|anmelden|registrieren|kontakt
datenschutz|über uns|hilfe|sprache|navigationsmenü|aller au contenu|rechercher|recherche
connexion|se connecter|inscription|contactez-nous|mentions légales|aide|langue|ir al contenido
saltar al contenido|buscar|iniciar sesión|registrarse|contacto|aviso legal|ayuda|idioma
quiénes somos|vai al contenuto|cerca|accedi|registrati|contatti|aiuto|lingua|chi siamo|pesquisar
entrar|contato|ajuda|sobre nós|zoeken|inloggen|over ons|taal|szukaj|zaloguj|kontakty|język
hledat|přihlásit|jazyk|keresés|bejelentkezés|поиск|найти|войти|вход|регистрация|контакты|о нас
о проекте|помощь|язык|навигация|меню|главная|карта сайта|главная страница|пошук|увійти
реєстрація|контакти|про нас|допомога|мова|головна|ara|giriş yap|kayıt ol|iletişim|hakkımızda
yardım|検索|ログイン|新規登録|お問い合わせ|ヘルプ|ナビゲーション|メニュー|本文へ|サイトマップ
このページ|ソースコードを表示|バグ報告|搜索|搜尋|登录|登錄|登入|注册|註冊|联系我们|聯絡我們
关于我们|關於我們|帮助|幫助|导航|導航|菜单|目录|本页|显示源代码|검색|로그인|회원가입|문의하기
도움말|메뉴|현재 문서|버그 보고하기|소스 코드 보기|ค้นหา|เข้าสู่ระบบ|بحث|تسجيل الدخول|اتصل بنا
"""
# What speakers call a language, then what English does, then codes: `de` and `no` are words too.
OWN_NAMES = """
deutsch|français|francais|español|espanol|castellano|italiano|português|português do brasil
português brasileiro|nederlands|svenska|norsk|norsk bokmål|bokmål|nynorsk|dansk|suomi|polski
čeština|česky|slovenčina|slovensky|magyar|română|български|русский|українська|беларуская|српски
srpski|hrvatski|slovenščina|bosanski|македонски|shqip|ελληνικά|türkçe|azərbaycanca|қазақша
oʻzbekcha|հայերեն|ქართული|עברית|العربية|عربي|فارسی|اردو|हिन्दी|हिंदी|বাংলা|ਪੰਜਾਬੀ|ગુજરાતી|தமிழ்
తెలుగు|ಕನ್ನಡ|മലയാളം|मराठी|नेपाली|සිංහල|ไทย|tiếng việt|việt|bahasa indonesia|bahasa melayu|日本語
中文|简体中文|繁體中文|繁体中文|正體中文|한국어|català|galego|euskara|eesti|latviešu|lietuvių
íslenska|gaeilge|cymraeg|esperanto|afrikaans|kiswahili|ខ្មែរ|ພາສາລາວ|မြန်မာ|монгол|lëtzebuergesch
brezhoneg|asturianu|kurdî|тоҷикӣ
"""
ENGLISH_NAMES = """
english|british english|german|french|spanish|italian|portuguese|brazilian portuguese|dutch
swedish|norwegian|danish|finnish|polish|czech|slovak|hungarian|romanian|bulgarian|russian
ukrainian|belarusian|serbian|croatian|slovenian|greek|turkish|hebrew|arabic|persian|farsi|hindi
bengali|tamil|thai|vietnamese|indonesian|malay|filipino|tagalog|japanese|chinese
simplified chinese|traditional chinese|korean|catalan|galician|basque|estonian|latvian
lithuanian|icelandic
"""
LANGUAGE_CODES = """
en|de|fr|es|it|pt|pt-br|nl|sv|no|nb|da|fi|pl|cs|sk|hu|ro|bg|ru|uk|be|sr|hr|sl|mk|el|tr|he|ar|fa
hi|th|vi|id|ja|jp|zh|zh-cn|zh-tw|zh-hans|zh-hant|ko|kr|ca|gl|eu|et|lv|lt|is|eo
"""


@functools.cache
def entries(table: str) -> frozenset[str]:
    """The entries of one of the tables above, as `plain` writes them."""
    return frozenset(map(plain, table.replace("\n", "|").split("|"))) - {""}


def plain(label: str) -> str:
    """A label without case, arrows, brackets and marks around it."""
    label = unicodedata.normalize("NFC", label).strip().casefold()
    return label.strip(" \t\u3000\xa0.:：|[](){}<>«»‹›←→↑↓↩⇐⇒⇑▲▼◀▶◄►▸▾☰×✕-–—·•…")
