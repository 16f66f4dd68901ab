"""The hospital service: a DICOM study arrives, a report goes back. For research use only.

    study = screen_study(model, processor, "study folder")     # hospital.study
    write_documents(study, software, folder)                   # hospital.documents

Needs the packages of requirements-hospital.txt. No patient's name, id, date, description or UID enters a log, a
message or the queue; of an error of a library, only its type does.
"""
