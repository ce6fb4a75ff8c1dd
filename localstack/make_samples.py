"""Makes localstack/samples: 30 files of ten formats, each with one marker phrase that only it holds.

  python3 localstack/make_samples.py            writes them and samples/expected.json
  python3 localstack/make_samples.py --check    fails if what is committed is not what this makes

Files have plain names on disk, so that every file system holds them; their S3 keys, which are not plain, are in
expected.json: key -> file, phrase to search in `content`, MIME type, format. `broken` there holds what cannot be
read. Standard library only.
"""
import base64
import io
import json
import os
import sys
import unicodedata
import zipfile

from lib.sample_formats import LATIN, docx, japanese, pdf, pptx, xlsx

SAMPLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "samples")
OOXML = "application/vnd.openxmlformats-officedocument."
MIME = {"text": "text/plain", "markdown": "text/markdown", "csv": "text/csv", "json": "application/json",
        "html": "text/html", "pdf": "application/pdf", "docx": OOXML + "wordprocessingml.document",
        "xlsx": OOXML + "spreadsheetml.sheet", "pptx": OOXML + "presentationml.presentation",
        "eml": "message/rfc822"}

# Enough ordinary text for a charset detector to be sure.
JA = ("この文書は動作確認のために作られた見本です。本文には検索のための目印が一つだけ含まれています。"
      "保存された文字の符号化方式が正しく判別されれば、この文章は文字化けせずに読むことができます。\n")
EN = ("This file is a sample. Its text holds one phrase that no other sample holds, so that a search for it\n"
      "must find this file and nothing else.\n")
FR = ("Ce fichier est un échantillon. Le café d’été coûte 3 €, déjà payé à l’hôtel ; « garçon, où êtes-vous ? »\n"
      "Les œuvres complètes du maître sont rangées près de la fenêtre.\n")

CODE = '''//! A sample of source code.

/// Rolls the barrels of the {marker} down to the quay.
fn roll(barrels: &[Barrel]) -> usize {{
    barrels.iter().filter(|barrel| barrel.is_full()).count()
}}
'''


def mail(subject, body, charset, transfer="base64", html=None):
    """A message as mail programs write it; headers in encoded words, lines ended by CRLF."""
    def word(text):
        return text if text.isascii() else f"=?{charset}?B?{base64.b64encode(text.encode(charset)).decode()}?="

    def part(kind, text):
        raw = text.encode(charset)
        if transfer == "base64":
            packed = base64.b64encode(raw).decode()
            raw = "\r\n".join(packed[at:at + 76] for at in range(0, len(packed), 76)).encode()
        return (f"Content-Type: text/{kind}; charset={charset}\r\n"
                f"Content-Transfer-Encoding: {transfer}\r\n\r\n").encode() + raw + b"\r\n"

    head = ("From: Harbour Office <harbour@example.com>\r\nTo: Keeper <keeper@example.com>\r\n"
            f"Subject: {word(subject)}\r\nDate: Thu, 01 Jan 2026 09:00:00 +0900\r\n"
            "Message-ID: <sample@example.com>\r\nMIME-Version: 1.0\r\n").encode()
    if html is None:
        return head + part("plain", body)
    edge = b"----=_sample"
    return (head + b'Content-Type: multipart/alternative; boundary="' + edge + b'"\r\n\r\n'
            + b"--" + edge + b"\r\n" + part("plain", body)
            + b"--" + edge + b"\r\n" + part("html", html) + b"--" + edge + b"--\r\n")


def good():
    """(key, file, format, marker, bytes, MIME type where the format does not say it)"""
    def ja(marker, encoding="utf-8"):
        return (JA + f"目印は「{marker}」です。\n" + JA).encode(encoding)

    yield "notes/harbour.txt", "text-utf8.txt", "text", "brass lantern ledger", (EN + "The brass lantern ledger.\n").encode()
    yield "src/barrels.rs", "code.rs", "text", "vermilion cooperage", CODE.format(marker="vermilion cooperage").encode(), "text/x-rust"
    yield "議事録/2026年度 定例会議.txt", "text-shift-jis.txt", "text", "琥珀色の望遠鏡", ja("琥珀色の望遠鏡", "cp932")
    yield "議事録/旧システム/移行記録.txt", "text-euc-jp.txt", "text", "銀杏並木の郵便局", ja("銀杏並木の郵便局", "euc-jp")
    yield "mail-archive/お知らせ.txt", "text-iso-2022-jp.txt", "text", "紫陽花の回覧板", ja("紫陽花の回覧板", "iso-2022-jp")
    yield "窓/メモ帳.txt", "text-utf16.txt", "text", "瑠璃色の万年筆", "\ufeff".encode("utf-16-le") + ja("瑠璃色の万年筆", "utf-16-le")
    yield "français/café.txt", "text-windows-1252.txt", "text", "crème brûlée étoilée", (FR + "Dessert : crème brûlée étoilée.\n" + FR).encode("cp1252")

    yield "docs/C++ notes + ideas.md", "notes.md", "markdown", "copper weathervane", f"# Notes + ideas\n\n{EN}\n- a *copper weathervane* on the roof\n".encode()
    yield "docs/🚀 launch plan.md", "launch.md", "markdown", "paper comet rehearsal", f"# Launch\n\n{EN}\n## Day one\n\nThe paper comet rehearsal begins at noon.\n".encode()
    yield "手引き/はじめに.md", "guide-ja.md", "markdown", "硝子の羅針盤", f"# はじめに\n\n{JA}\n- 目印: 硝子の羅針盤\n".encode()

    yield "data/100%2B coverage.csv", "coverage.csv", "csv", "walnut sextant", b'item,note,price\nrope,"coiled, dry",12\ntool,walnut sextant,340\n'
    yield "データ/売上集計.csv", "sales-shift-jis.csv", "csv", "檸檬色の手提げ袋", f"品名,備考,金額\n手提げ袋,檸檬色の手提げ袋,1200\n文房具,本年度の新商品として販売を開始しました,800\n".encode("cp932")
    yield "data/" + unicodedata.normalize("NFD", "ガラス") + "/在庫.csv", "stock.csv", "csv", "群青の硝子瓶", "\ufeff品名,数量\n群青の硝子瓶,24\n".encode()

    yield "data/config.json", "config.json", "json", "turquoise semaphore", json.dumps({"name": "harbour", "lamps": [1, 2, 3], "signal": {"label": "turquoise semaphore"}}, indent=1).encode()
    yield "データ/設定.json", "settings-ja.json", "json", "朱塗りの渡し船", json.dumps({"名前": "見本", "説明": "朱塗りの渡し船"}).encode()

    yield "web/index.html", "index.html", "html", "marigold ferry timetable", f"<!DOCTYPE html><html lang=en><head><meta charset=utf-8><title>Ferries</title><script>var hidden = 1;</script></head><body><h1>Ferries</h1><p>{EN}</p><p>The marigold <b>ferry</b> timetable &amp; fares.</p></body></html>".encode()
    yield "web/日本語/旧ページ.html", "page-euc-jp.html", "html", "若草色の観覧車", f'<html lang="ja"><head><meta http-equiv="Content-Type" content="text/html; charset=EUC-JP"><title>旧ページ</title></head><body><p>{JA}</p><p>目印は若草色の観覧車です。</p></body></html>'.encode("euc-jp")
    yield "web/deep/er/and/deeper/page.html", "page.html", "html", "obsidian carousel", f"<html><body><ul><li>one<li>obsidian carousel</ul><p>{EN}</body></html>".encode()

    yield "reports/annual-report.pdf", "annual-report.pdf", "pdf", "cobalt lighthouse inventory", pdf("Annual report", [["Annual report", "The cobalt lighthouse inventory (2026) is complete.", "Café prices are in an appendix."], ["Second page."]], LATIN, "cp1252")
    yield "報告書/年次報告書.pdf", "report-unijis.pdf", "pdf", "藍染めの帆布", pdf("年次報告書", [["年次報告書", "目印は藍染めの帆布です。"]], japanese("HeiseiKakuGo-W5", "UniJIS-UCS2-H"), "utf-16-be")
    yield "報告書/明細書 (控え).pdf", "report-rksj.pdf", "pdf", "真鍮の風見鶏", pdf("明細書", [["明細書", "目印は真鍮の風見鶏です。"]], japanese("HeiseiMin-W3", "90ms-RKSJ-H"), "cp932", filtered=True)

    yield "office/minutes.docx", "minutes.docx", "docx", "juniper observatory", docx("Minutes", "Keeper", ["Those present met in the juniper observatory.", "Next meeting: soon & often."], [["lamp", "oil"], ["first", "two barrels"]])
    yield "office/企画書.docx", "plan-ja.docx", "docx", "珊瑚色の灯台守", docx("企画書", "灯台守", ["目印は珊瑚色の灯台守です。", "以上、よろしくお願いいたします。"])
    yield "office/a&b <draft> 'v2'.docx", "draft.docx", "docx", "saffron anchor chain", docx("Draft", "Keeper", ["A saffron anchor chain, 40 m."], [["a", "b"]])

    yield "office/stock list.xlsx", "stock.xlsx", "xlsx", "indigo hourglass", xlsx("Stock", "Keeper", {"Stock": [["item", "count"], ["indigo hourglass", 12], ["rope", 3.5]], "Empty": []})
    yield "office/見積書.xlsx", "estimate-ja.xlsx", "xlsx", "漆黒の碁石", xlsx("見積書", "灯台守", {"表紙": [["見積書"]], "明細": [["品名", "金額"], ["漆黒の碁石", 5800]]})

    yield "slides/kickoff.pptx", "kickoff.pptx", "pptx", "amber drawbridge", pptx("Kickoff", "Keeper", [("Kickoff", ["Welcome"]), ("Plan", ["Raise the amber drawbridge", "Lower it"])])
    yield "slides/発表資料.pptx", "talk-ja.pptx", "pptx", "翡翠の石段", pptx("発表資料", "灯台守", [("発表資料", ["目印は翡翠の石段です"])])

    yield "mail/storm warning.eml", "storm.eml", "eml", "pewter storm signal", mail("Storm warning", "Hoist the pewter storm signal.\r\n" + EN, "us-ascii", "7bit")
    yield "mail/お知らせ.eml", "notice-ja.eml", "eml", "黄金色の鈴蘭", mail("お知らせ", "目印は黄金色の鈴蘭です。\r\n" + JA, "iso-2022-jp", html="<p>目印は黄金色の鈴蘭です。</p>")


def broken():
    """What cannot be read: found by its name, with an extraction error."""
    whole = docx("Lost", "Keeper", ["This text cannot be read: " + "the end of the file is missing. " * 40])
    yield "broken/truncated report.docx", "truncated.docx", "docx", whole[:len(whole) * 2 // 3]
    whole = pdf("Lost", [["This text cannot be read."]], LATIN, "cp1252")
    yield "broken/壊れた.pdf", "broken.pdf", "pdf", whole[:80] + b"\0" * 200


def make():
    """path -> bytes of everything under samples/"""
    made, expected = {}, {"good": {}, "broken": {}}
    for key, file, kind, marker, body, *mime in good():
        assert key not in expected["good"] and f"files/{file}" not in made and len(key.encode()) <= 1024
        made[f"files/{file}"] = body
        expected["good"][key] = {"file": f"files/{file}", "phrase": marker, "format": kind,
                                 "mime_type": mime[0] if mime else MIME[kind]}
    for key, file, kind, body in broken():
        made[f"broken/{file}"] = body
        expected["broken"][key] = {"file": f"broken/{file}", "format": kind, "mime_type": MIME[kind]}
    phrases = [one["phrase"] for one in expected["good"].values()]
    assert len(phrases) == 30 == len(set(phrases)) and len({one["format"] for one in expected["good"].values()}) == 10
    made["expected.json"] = (json.dumps(expected, ensure_ascii=False, indent=1) + "\n").encode()
    return made


def same(left, right):
    """Archives by their members: what zlib makes of them differs between its versions."""
    if left == right or not left.startswith(b"PK"):
        return left == right
    try:
        both = [zipfile.ZipFile(io.BytesIO(one)) for one in (left, right)]
    except zipfile.BadZipFile:
        return abs(len(left) - len(right)) < 64  # the truncated one
    return [[(name, one.read(name)) for name in one.namelist()] for one in both][0] == [
        [(name, one.read(name)) for name in one.namelist()] for one in both][1]


def main(arguments):
    wrong = []
    for path, body in make().items():
        target = os.path.join(SAMPLES, path)
        if arguments == ["--check"]:
            there = open(target, "rb").read() if os.path.exists(target) else b""
            if not same(there, body):
                wrong.append(path)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as file:
                file.write(body)
    for path in wrong:
        print(f"samples/{path} is not what make_samples.py makes", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
