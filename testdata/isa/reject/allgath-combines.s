; A gathering does not combine.
; expect: structure: entry 0 `main`: instruction 0 (`allgath`): it combines by Add
object "allgath-combines" target "mtia-300" hbm 1024 sram 0

entry e0 "main" {
  ranks 2
  input "x" f32 (8) hbm:0
  output "y" f32 (8) hbm:512
  transfer x0 hbm:0 hbm:512 f32 x 4 add peer 0
  code:
    allgath x0
    halt
}

weights 0 {
}
